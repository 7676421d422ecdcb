import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.zip.CRC32C;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.utils.internals.BufferSupplier;

/**
 * Writes record batches with Kafka's own client code, and beside them what the same code reads back from them. Needs
 * kafka-clients and its runtime dependencies on the class path, no broker. Usage: java GoldenBatches DIRECTORY
 */
public final class GoldenBatches {
    private static final long TIME = 1_700_000_000_000L;
    private static final HexFormat HEX = HexFormat.of();

    private final Path directory;
    private final List<String> expected = new ArrayList<>();

    private GoldenBatches(Path directory) {
        this.directory = directory;
    }

    public static void main(String[] arguments) throws Exception {
        new GoldenBatches(Path.of(arguments[0])).write();
    }

    private void write() throws Exception {
        Files.createDirectories(directory);
        emit("none", assorted(Compression.NONE, 0));
        emit("gzip", assorted(Compression.gzip().build(), 0));
        emit("snappy", assorted(Compression.snappy().build(), 0));
        emit("lz4", assorted(Compression.lz4().build(), 0));
        emit("zstd", assorted(Compression.zstd().build(), 0));
        // Larger than one block of snappy (32 KiB) and of lz4 (64 KiB).
        emit("snappy-blocks", large(Compression.snappy().build()));
        emit("lz4-blocks", large(Compression.lz4().build()));
        emit("zstd-blocks", large(Compression.zstd().level(19).build()));
        emit("offset-beyond-32-bits", assorted(Compression.NONE, 5_000_000_000L));
        emit("log-append-time", logAppendTime());
        emit("transactional", transactional());
        emit("commit-marker", marker(ControlRecordType.COMMIT));
        emit("abort-marker", marker(ControlRecordType.ABORT));
        emit("no-timestamp", noTimestamp());
        emit("empty", empty());
        emit("compacted", compacted());
        emit("two-batches", two());
        emit("magic-0", legacy(RecordBatch.MAGIC_VALUE_V0));
        emit("magic-1", legacy(RecordBatch.MAGIC_VALUE_V1));
        Files.write(directory.resolve("expected.tsv"), expected, StandardCharsets.UTF_8);
    }

    private static MemoryRecords assorted(Compression compression, long baseOffset) {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(1 << 16), compression,
            TimestampType.CREATE_TIME, baseOffset);
        builder.append(TIME, bytes("key-0"), bytes("value-0"));
        builder.append(TIME + 5, null, bytes("null key"));
        builder.append(TIME - 7, bytes("tombstone, earlier than the first"), null);
        builder.append(TIME + 5, new byte[0], new byte[0]);
        builder.append(TIME + 1_000_000, (byte[]) null, null, new Header[] {
            new RecordHeader("name", bytes("one")),
            new RecordHeader("name", bytes("two")),
            new RecordHeader("null", (byte[]) null),
            new RecordHeader("", new byte[0]),
            new RecordHeader("žluťoučký kůň 🐎", new byte[] {0, (byte) 0xff, 0x7f, (byte) 0x80}),
        });
        for (int i = 0; i < 95; i++) {
            builder.append(TIME + i, bytes("airport-" + i % 7),
                bytes("{\"origin\":\"ORD\",\"destination\":\"SFO\",\"delay\":" + i + "}"));
        }
        return builder.build();
    }

    private static MemoryRecords large(Compression compression) {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(1 << 20), compression,
            TimestampType.CREATE_TIME, 0);
        long state = 88172645463325252L;
        for (int i = 0; i < 400; i++) {
            StringBuilder text = new StringBuilder();
            while (text.length() < 400) {
                state ^= state << 13;
                state ^= state >>> 7;
                state ^= state << 17;
                text.append("delay=").append(Long.toUnsignedString(state, 16), 0, 3).append(';');
            }
            builder.append(TIME + i, bytes("key-" + i), bytes(text.toString()));
        }
        return builder.build();
    }

    private static MemoryRecords logAppendTime() {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(4096), RecordBatch.CURRENT_MAGIC_VALUE,
            Compression.NONE, TimestampType.LOG_APPEND_TIME, 40, TIME + 123);
        builder.append(TIME, bytes("a"), bytes("1"));
        builder.append(TIME + 50, bytes("b"), bytes("2"));
        return builder.build();
    }

    private static MemoryRecords transactional() {
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(ByteBuffer.allocate(4096),
            RecordBatch.CURRENT_MAGIC_VALUE, Compression.NONE, TimestampType.CREATE_TIME, 7, RecordBatch.NO_TIMESTAMP,
            4711, (short) 3, 99, true, false, 12, 4096);
        builder.append(TIME, bytes("a"), bytes("1"));
        builder.append(TIME, bytes("b"), bytes("2"));
        return builder.build();
    }

    private static MemoryRecords marker(ControlRecordType type) {
        return MemoryRecords.withEndTransactionMarker(55, TIME, 6, 4711, (short) 3, new EndTransactionMarker(type, 2));
    }

    private static MemoryRecords noTimestamp() {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(4096), Compression.NONE,
            TimestampType.CREATE_TIME, 0);
        builder.append(RecordBatch.NO_TIMESTAMP, bytes("a"), bytes("1"));
        return builder.build();
    }

    private static MemoryRecords empty() {
        ByteBuffer buffer = ByteBuffer.allocate(DefaultRecordBatch.RECORD_BATCH_OVERHEAD);
        DefaultRecordBatch.writeEmptyHeader(buffer, RecordBatch.CURRENT_MAGIC_VALUE, 4711, (short) 3, 10, 100, 109, 5,
            TimestampType.CREATE_TIME, TIME, true, false);
        buffer.flip();
        return MemoryRecords.readableRecords(buffer);
    }

    /** Every third record is gone, as after log compaction, and the tombstones' deletion has a horizon (KIP-534). */
    private static MemoryRecords compacted() {
        MemoryRecords.RecordFilter filter = new MemoryRecords.RecordFilter(TIME + 1, 1_000) {
            @Override
            protected BatchRetentionResult checkBatchRetention(RecordBatch batch) {
                return new BatchRetentionResult(BatchRetention.DELETE_EMPTY, true);
            }

            @Override
            protected boolean shouldRetainRecord(RecordBatch batch, org.apache.kafka.common.record.internal.Record record) {
                return record.offset() % 3 != 2;
            }
        };
        ByteBuffer output = ByteBuffer.allocate(1 << 16);
        MemoryRecords.FilterResult result = assorted(Compression.lz4().build(), 600).filterTo(filter, output,
            BufferSupplier.NO_CACHING, Integer.MAX_VALUE);
        ByteBuffer filtered = result.outputBuffer();
        filtered.flip();
        return MemoryRecords.readableRecords(filtered);
    }

    private static MemoryRecords two() {
        ByteBuffer both = ByteBuffer.allocate(1 << 16);
        both.put(assorted(Compression.gzip().build(), 0).buffer());
        both.put(assorted(Compression.NONE, 100).buffer());
        both.flip();
        return MemoryRecords.readableRecords(both);
    }

    private static MemoryRecords legacy(byte magic) {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(4096), magic, Compression.NONE,
            TimestampType.CREATE_TIME, 0);
        builder.append(magic == 0 ? RecordBatch.NO_TIMESTAMP : TIME, bytes("a"), bytes("1"));
        return builder.build();
    }

    private void emit(String name, MemoryRecords records) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        ByteBuffer buffer = records.buffer();
        byte[] array = new byte[buffer.remaining()];
        buffer.get(array);
        bytes.write(array);
        Files.write(directory.resolve(name + ".bin"), bytes.toByteArray());
        for (RecordBatch batch : records.batches()) {
            if (batch.magic() < RecordBatch.MAGIC_VALUE_V2) {
                expected.add(String.join("\t", "legacy", name, String.valueOf(batch.magic())));
                continue;
            }
            expected.add(String.join("\t", "batch", name, String.valueOf(batch.baseOffset()),
                String.valueOf(batch.lastOffset()), String.valueOf(batch.countOrNull()),
                batch.compressionType().name, batch.timestampType().name, String.valueOf(batch.maxTimestamp()),
                String.valueOf(batch.partitionLeaderEpoch()), String.valueOf(batch.producerId()),
                String.valueOf(batch.producerEpoch()), String.valueOf(batch.baseSequence()),
                String.valueOf(batch.isTransactional()), String.valueOf(batch.isControlBatch()),
                String.valueOf(batch.deleteHorizonMs().orElse(-1)), String.valueOf(batch.checksum())));
            for (org.apache.kafka.common.record.internal.Record record : batch) {
                List<String> headers = new ArrayList<>();
                for (Header header : record.headers()) {
                    headers.add(hex(bytes(header.key())) + "=" + hex(header.value()));
                }
                expected.add(String.join("\t", "record", name, String.valueOf(record.offset()),
                    String.valueOf(record.timestamp()), hex(record.key()), hex(record.value()),
                    String.join(",", headers)));
            }
        }
    }

    private static String hex(ByteBuffer buffer) {
        if (buffer == null) {
            return "null";
        }
        byte[] array = new byte[buffer.remaining()];
        buffer.duplicate().get(array);
        return hex(array);
    }

    /** Long values by length and CRC-32C, so that the file stays small. */
    private static String hex(byte[] array) {
        if (array == null) {
            return "null";
        }
        if (array.length <= 64) {
            return HEX.formatHex(array);
        }
        CRC32C crc = new CRC32C();
        crc.update(array);
        return "#" + array.length + ":" + crc.getValue();
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
