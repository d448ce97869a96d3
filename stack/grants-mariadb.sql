-- The user that Debezium reads a MariaDB shop as. Choose another password; narrow '%' to Connect's host.
CREATE USER IF NOT EXISTS 'debezium'@'%' IDENTIFIED BY 'debezium';
-- To follow the binlog.
GRANT REPLICATION SLAVE, REPLICATION CLIENT, REPLICATION SLAVE ADMIN, BINLOG MONITOR ON *.* TO 'debezium'@'%';
-- For the first snapshot: a short global read lock, or table locks where that is not allowed.
GRANT RELOAD, SHOW DATABASES ON *.* TO 'debezium'@'%';
GRANT SELECT, LOCK TABLES ON shop.* TO 'debezium'@'%';
