package benchmarks;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;

/** Reads what the question needs from Debezium's JSON, as a stream of tokens: no tree, no binding. */
final class Debezium {
    private static final JsonFactory JSON = new JsonFactory();

    private Debezium() {}

    static Order order(byte[] json) {
        long patient = 0;
        long at = 0;
        long cents = 0;
        try (JsonParser parser = JSON.createParser(json)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                JsonToken value = parser.nextToken();
                if (!name.equals("after") || value != JsonToken.START_OBJECT) {
                    parser.skipChildren();
                    continue;
                }
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String column = parser.currentName();
                    parser.nextToken();
                    switch (column) {
                        case "user_id" -> patient = parser.getLongValue();
                        case "date" -> at = parser.getLongValue();
                        case "amount_total" -> cents = Math.round(Double.parseDouble(parser.getText()) * 100);
                        default -> { }
                    }
                }
                break;  // nothing of an order is needed beyond its image
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return new Order(patient, at, cents);
    }

    static Patient patient(byte[] json) {
        double discount = 0;
        long at = 0;
        try (JsonParser parser = JSON.createParser(json)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                JsonToken value = parser.nextToken();
                if (value != JsonToken.START_OBJECT || name.equals("before")) {
                    parser.skipChildren();
                    continue;
                }
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String field = parser.currentName();
                    parser.nextToken();
                    if (field.equals("practitioner_discount")) {
                        discount = parser.getDoubleValue();
                    } else if (field.equals("ts_ms")) {
                        at = parser.getLongValue();
                    }
                }
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return new Patient(discount, at);
    }

    /** An order: who, when (epoch milliseconds), and what it came to. */
    record Order(long patient, long at, long cents) {}

    /** A patient's discount, and since when (epoch milliseconds). */
    record Patient(double discount, long at) {}
}
