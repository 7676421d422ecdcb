import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.protocol.ApiKeys;
import org.apache.kafka.common.resource.*;

/**
 * Lets the Java client on the class path talk to a real broker through a proxy, which keeps the frames of each API and
 * version: the first request and response, and the largest of up to 4 KiB. What is kept already stays, so that clients
 * of several releases can be run one after the other. Compiles against clients from 2.1 on; what newer ones can do
 * besides is in CaptureRecent.
 *
 * Usage: java CaptureFrames DIRECTORY PLAIN_PROXY=PLAIN_BROKER SASL_PROXY=SASL_BROKER (ports). See ../frames/capture.sh.
 */
public final class CaptureFrames {
    static final int LARGEST = 4 << 10;

    /** Frames by file name without its number, in the order in which they passed. */
    static final Map<String, List<byte[]>> FRAMES = new ConcurrentHashMap<>();

    interface Step {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        String plain = proxy(args[1]);
        String sasl = proxy(args[2]);
        step("base", () -> base(plain));
        step("sasl", () -> sasl(sasl));
        try {
            Class.forName("CaptureRecent").getMethod("run", String.class, String.class).invoke(null, plain, sasl);
        } catch (ClassNotFoundException e) {
            System.err.println("an old client: only what all have");
        }
        write(Path.of(args[0]));
        System.exit(0);
    }

    /** What fails is told and left out: many requests are made for their answer, be it an error. */
    static void step(String name, Step step) {
        try {
            step.run();
        } catch (Exception e) {
            Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
            System.err.println(name + ": " + cause);
        }
    }

    /** Waits for all futures of `result`, whose accessor has the first of these names that exists in this release. */
    static void await(Object result, String... names) throws Exception {
        for (String name : names) {
            try {
                Map<?, ?> futures = (Map<?, ?>) result.getClass().getMethod(name).invoke(result);
                for (Object future : futures.values()) ((KafkaFuture<?>) future).get();
                return;
            } catch (NoSuchMethodException e) {
                // The next one.
            }
        }
    }

    static Map<String, Object> config(String bootstrap, Object... entries) {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", bootstrap);
        config.put("client.id", "golden");
        for (int i = 0; i < entries.length; i += 2) config.put((String) entries[i], entries[i + 1]);
        return config;
    }

    static Map<String, Object> saslConfig(String bootstrap, Object... entries) {
        Map<String, Object> config = config(bootstrap, entries);
        config.put("security.protocol", "SASL_PLAINTEXT");
        config.put("sasl.mechanism", "PLAIN");
        config.put("sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"secret\";");
        return config;
    }

    static Producer<byte[], byte[]> producer(Map<String, Object> config) {
        config.put("key.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer");
        config.put("value.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer");
        return new KafkaProducer<>(config);
    }

    static Consumer<byte[], byte[]> consumer(Map<String, Object> config) {
        config.put("key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        config.put("value.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        config.put("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(config);
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int i) {
        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, i % 2, 1_700_000_000_000L + i, bytes("key-" + i), bytes("value-" + i));
        record.headers().add("trace", bytes("t" + i));
        return record;
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** Everything that a client of 2.1 can do without SASL. */
    static void base(String bootstrap) throws Exception {
        String run = Long.toHexString(System.nanoTime());
        String topic = "golden-" + run;
        String other = "golden-other-" + run;
        String group = "golden-group-" + run;
        try (AdminClient admin = AdminClient.create(config(bootstrap))) {
            NewTopic configured = new NewTopic(other, Map.of(0, List.of(1)));
            configured.configs(Map.of("cleanup.policy", "compact"));
            admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1), configured)).all().get();
            step("existing topic", () -> admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1))).all().get());
            admin.listTopics().names().get();
            step("describe topics", () -> await(admin.describeTopics(List.of(topic, other)), "topicNameValues", "values"));
            step("unknown topic", () -> await(admin.describeTopics(List.of("nowhere")), "topicNameValues", "values"));
            admin.describeCluster().nodes().get();
            step("partitions", () -> admin.createPartitions(Map.of(other, NewPartitions.increaseTo(2))).all().get());
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, other);
            step("configs", () -> admin.describeConfigs(List.of(resource),
                new DescribeConfigsOptions().includeSynonyms(true)).all().get());
            step("acls", () -> {
                ResourcePattern pattern = new ResourcePattern(ResourceType.TOPIC, topic, PatternType.LITERAL);
                AccessControlEntry entry = new AccessControlEntry("User:alice", "*", AclOperation.READ, AclPermissionType.ALLOW);
                admin.createAcls(List.of(new AclBinding(pattern, entry))).all().get();
                admin.describeAcls(AclBindingFilter.ANY).values().get();
                admin.deleteAcls(List.of(new AclBindingFilter(pattern.toFilter(), AccessControlEntryFilter.ANY))).all().get();
            });
            produce(bootstrap, topic, run);
            consume(bootstrap, topic, group, run);
            step("groups", () -> {
                admin.listConsumerGroups().all().get();
                admin.describeConsumerGroups(List.of(group)).describedGroups().get(group).get();
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
                admin.deleteConsumerGroups(List.of(group)).all().get();
            });
            step("log dirs", () -> await(admin.describeLogDirs(List.of(1)), "descriptions", "values"));
            step("delete records", () -> admin.deleteRecords(
                Map.of(new TopicPartition(topic, 0), RecordsToDelete.beforeOffset(1))).all().get());
            step("delete topics", () -> admin.deleteTopics(List.of(other)).all().get());
        }
    }

    static void produce(String bootstrap, String topic, String run) throws Exception {
        try (Producer<byte[], byte[]> producer = producer(config(bootstrap, "acks", "1", "enable.idempotence", "false", "compression.type", "gzip"))) {
            for (int i = 0; i < 20; i++) producer.send(record(topic, i));
            producer.flush();
        }
        try (Producer<byte[], byte[]> producer = producer(config(bootstrap, "acks", "all", "enable.idempotence", "true"))) {
            for (int i = 0; i < 5; i++) producer.send(record(topic, i)).get();
        }
        try (Producer<byte[], byte[]> producer = producer(config(bootstrap, "transactional.id", "golden-" + run))) {
            producer.initTransactions();
            producer.beginTransaction();
            for (int i = 0; i < 4; i++) producer.send(record(topic, i));
            producer.commitTransaction();
            producer.beginTransaction();
            producer.send(record(topic, 7)).get();
            producer.abortTransaction();
        }
    }

    static void consume(String bootstrap, String topic, String group, String run) throws Exception {
        List<TopicPartition> partitions = List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1));
        try (Consumer<byte[], byte[]> consumer = consumer(config(bootstrap, "isolation.level", "read_committed", "enable.auto.commit", "false"))) {
            consumer.assign(partitions);
            consumer.beginningOffsets(partitions);
            consumer.endOffsets(partitions);
            consumer.offsetsForTimes(Map.of(partitions.get(0), 1_700_000_000_005L));
            int records = 0;
            for (int i = 0; i < 40 && records < 29; i++) records += consumer.poll(Duration.ofMillis(200)).count();
            System.err.println(records + " records read");
            consumer.poll(Duration.ofMillis(600));
        }
        try (Consumer<byte[], byte[]> one = consumer(config(bootstrap, "group.id", group, "enable.auto.commit", "false"))) {
            one.subscribe(List.of(topic));
            for (int i = 0; i < 20 && one.poll(Duration.ofMillis(300)).isEmpty(); i++) { }
            one.commitSync(Map.of(partitions.get(0), new OffsetAndMetadata(3, "metadata")));
            // A heartbeat is due each 3 s.
            long until = System.nanoTime() + Duration.ofMillis(3500).toNanos();
            while (System.nanoTime() < until) one.poll(Duration.ofMillis(300));
        }
        step("transactional offsets", () -> {
            try (Producer<byte[], byte[]> producer = producer(config(bootstrap, "transactional.id", "golden-offsets-" + run))) {
                producer.initTransactions();
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = Map.of(partitions.get(0), new OffsetAndMetadata(5, "metadata"));
                try {
                    // Since 2.5 with the group's metadata, from 4.0 on only so.
                    Class<?> metadata = Class.forName("org.apache.kafka.clients.consumer.ConsumerGroupMetadata");
                    Producer.class.getMethod("sendOffsetsToTransaction", Map.class, metadata)
                        .invoke(producer, offsets, metadata.getConstructor(String.class).newInstance(group));
                } catch (ClassNotFoundException | NoSuchMethodException e) {
                    Producer.class.getMethod("sendOffsetsToTransaction", Map.class, String.class).invoke(producer, offsets, group);
                }
                producer.commitTransaction();
            }
        });
    }

    static void sasl(String bootstrap) throws Exception {
        try (AdminClient admin = AdminClient.create(saslConfig(bootstrap))) {
            admin.describeCluster().nodes().get();
            step("tokens", () -> {
                var token = admin.createDelegationToken().delegationToken().get();
                admin.renewDelegationToken(token.hmac()).expiryTimestamp().get();
                admin.describeDelegationToken().delegationTokens().get();
                admin.expireDelegationToken(token.hmac()).expiryTimestamp().get();
            });
        }
        try (AdminClient admin = AdminClient.create(config(bootstrap, "security.protocol", "SASL_PLAINTEXT", "sasl.mechanism", "PLAIN",
            "request.timeout.ms", "3000", "default.api.timeout.ms", "4000", "sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"wrong\";"))) {
            step("wrong password", () -> admin.describeCluster().nodes().get());
        }
    }

    /** Starts a proxy; `ports` is its own and the broker's, as in 47192=47092. */
    static String proxy(String ports) throws IOException {
        int own = Integer.parseInt(ports.split("=")[0]);
        int broker = Integer.parseInt(ports.split("=")[1]);
        ServerSocket server = new ServerSocket(own, 50, InetAddress.getLoopbackAddress());
        daemon(() -> {
            while (true) {
                Socket client = server.accept();
                Socket upstream = new Socket(InetAddress.getLoopbackAddress(), broker);
                Map<Integer, String> inFlight = new ConcurrentHashMap<>();
                daemon(() -> pump(client, upstream, frame -> {
                    ByteBuffer buffer = ByteBuffer.wrap(frame, 4, frame.length - 4);
                    String name = ApiKeys.forId(buffer.getShort()).name + ".v" + buffer.getShort();
                    // The broker reaches itself by the proxy too; what only brokers send each other is not for us.
                    if (name.contains("ShareGroupState")) return;
                    inFlight.put(buffer.getInt(), name);
                    keep(name + ".request", frame);
                }));
                daemon(() -> pump(upstream, client, frame -> {
                    String name = inFlight.remove(ByteBuffer.wrap(frame, 4, 4).getInt());
                    if (name != null) keep(name + ".response", frame);
                }));
            }
        });
        return "127.0.0.1:" + own;
    }

    static void daemon(Step step) {
        Thread thread = new Thread(() -> step("proxy", step));
        thread.setDaemon(true);
        thread.start();
    }

    interface Sink {
        void frame(byte[] frame);
    }

    /** Passes frames on until one side closes. */
    static void pump(Socket from, Socket to, Sink sink) throws IOException {
        try (from; to) {
            DataInputStream in = new DataInputStream(from.getInputStream());
            DataOutputStream out = new DataOutputStream(to.getOutputStream());
            while (true) {
                int length = in.readInt();
                byte[] frame = new byte[4 + length];
                ByteBuffer.wrap(frame).putInt(length);
                in.readFully(frame, 4, length);
                sink.frame(frame);
                out.write(frame);
                out.flush();
            }
        } catch (EOFException | SocketException e) {
            // One side has closed.
        }
    }

    static void keep(String name, byte[] frame) {
        FRAMES.computeIfAbsent(name, key -> Collections.synchronizedList(new ArrayList<>())).add(frame);
    }

    static void write(Path directory) throws IOException {
        Files.createDirectories(directory);
        for (Map.Entry<String, List<byte[]>> entry : FRAMES.entrySet()) {
            Path first = directory.resolve(entry.getKey() + ".bin");
            if (Files.exists(first)) continue;
            List<byte[]> frames = List.copyOf(entry.getValue());
            Files.write(first, frames.get(0));
            byte[] largest = frames.get(0);
            for (byte[] frame : frames) if (frame.length > largest.length && frame.length <= LARGEST) largest = frame;
            if (largest != frames.get(0)) Files.write(directory.resolve(entry.getKey() + ".large.bin"), largest);
        }
    }
}
