"""The real servers: MariaDB, Kafka, Connect with Debezium, fetched by Maven."""
