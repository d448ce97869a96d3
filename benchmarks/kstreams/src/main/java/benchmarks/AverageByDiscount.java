package benchmarks;

import benchmarks.Debezium.Order;
import benchmarks.Debezium.Patient;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;

/**
 * Average order value by the discount that the patient had: BROKER PREFIX ORDERS FOLDER plain|versioned.
 *
 * <p>Ends once so many orders are in the averages, and prints a JSON line for each discount. A
 * versioned store is asked for the discount at the order's own time; a plain one knows the newest only.
 */
public final class AverageByDiscount {
    /** Discount of an order whose patient is not there yet. */
    private static final double UNKNOWN = 100;

    private static final Duration EVER = Duration.ofDays(20 * 366);

    private AverageByDiscount() {}

    public static void main(String[] arguments) throws InterruptedException {
        String broker = arguments[0];
        String prefix = arguments[1];
        long expected = Long.parseLong(arguments[2]);
        String folder = arguments[3];
        boolean versioned = arguments[4].equals("versioned");

        AtomicLong aggregated = new AtomicLong();
        CountDownLatch ended = new CountDownLatch(1);
        StreamsBuilder builder = new StreamsBuilder();

        // The key stays Debezium's JSON text: patients need no repartitioning, orders one.
        Serde<Patient> patients = stored(
            patient -> ByteBuffer.allocate(16).putDouble(patient.discount()).putLong(patient.at()),
            bytes -> new Patient(bytes.getDouble(), bytes.getLong()));
        KTable<String, Patient> users = builder.stream(
                prefix + ".users",
                versioned
                    ? Consumed.with(Serdes.String(), debezium(Debezium::patient))
                        .withTimestampExtractor((record, before) -> ((Patient) record.value()).at())
                    : Consumed.with(Serdes.String(), debezium(Debezium::patient)))
            .toTable((versioned
                    ? Materialized.<String, Patient>as(
                        Stores.persistentVersionedKeyValueStore("users", EVER))
                    : Materialized.<String, Patient, KeyValueStore<Bytes, byte[]>>as("users"))
                .withKeySerde(Serdes.String())
                .withValueSerde(patients));

        Serde<Order> orders = stored(
            order -> ByteBuffer.allocate(24).putLong(order.patient()).putLong(order.at()).putLong(order.cents()),
            bytes -> new Order(bytes.getLong(), bytes.getLong(), bytes.getLong()));
        Serde<Sums> sums = stored(
            sum -> ByteBuffer.allocate(16).putLong(sum.orders()).putLong(sum.cents()),
            bytes -> new Sums(bytes.getLong(), bytes.getLong()));
        builder.stream(
                prefix + ".orders",
                versioned
                    ? Consumed.with(Serdes.String(), debezium(Debezium::order))
                        .withTimestampExtractor((record, before) -> ((Order) record.value()).at())
                    : Consumed.with(Serdes.String(), debezium(Debezium::order)))
            .selectKey((key, order) -> "{\"id\":" + order.patient() + "}")
            .leftJoin(
                users,
                (order, patient) -> KeyValue.pair(patient == null ? UNKNOWN : patient.discount(), order.cents()),
                Joined.with(Serdes.String(), orders, patients))
            .map((key, priced) -> KeyValue.pair(priced.key, priced.value))
            .groupByKey(Grouped.with(Serdes.Double(), Serdes.Long()))
            .aggregate(
                () -> new Sums(0, 0),
                (discount, cents, sum) -> {
                    if (aggregated.incrementAndGet() == expected) {
                        ended.countDown();
                    }
                    return new Sums(sum.orders() + 1, sum.cents() + cents);
                },
                Materialized.<Double, Sums, KeyValueStore<Bytes, byte[]>>as("averages")
                    .withKeySerde(Serdes.Double())
                    .withValueSerde(sums));

        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "average-" + ProcessHandle.current().pid());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, broker);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            ended.await();
            print(streams, expected);
        }
    }

    private static void print(KafkaStreams streams, long expected) throws InterruptedException {
        var store = streams.store(StoreQueryParameters.fromNameAndType(
            "averages", QueryableStoreTypes.<Double, Sums>keyValueStore()));
        List<KeyValue<Double, Sums>> found = new ArrayList<>();
        do {  // the last sum is put into the store after it was counted
            Thread.sleep(1);
            found.clear();
            try (KeyValueIterator<Double, Sums> all = store.all()) {
                all.forEachRemaining(found::add);
            }
        } while (found.stream().mapToLong(one -> one.value.orders()).sum() < expected);
        found.forEach(one -> System.out.printf(
            "{\"discount\":%s,\"orders\":%d,\"cents\":%d}%n", one.key, one.value.orders(), one.value.cents()));
    }

    private static <T> Serde<T> debezium(Function<byte[], T> read) {
        return Serdes.serdeFrom(
            (topic, value) -> {
                throw new UnsupportedOperationException("the shop's topics are only read");
            },
            (topic, bytes) -> bytes == null ? null : read.apply(bytes));
    }

    private static <T> Serde<T> stored(Function<T, ByteBuffer> write, Function<ByteBuffer, T> read) {
        return Serdes.serdeFrom(
            (topic, value) -> value == null ? null : write.apply(value).array(),
            (topic, bytes) -> bytes == null ? null : read.apply(ByteBuffer.wrap(bytes)));
    }

    /** Orders and the sum of their amounts. */
    record Sums(long orders, long cents) {}
}
