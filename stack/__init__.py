"""The real servers: MariaDB, Kafka, Connect with Debezium."""
