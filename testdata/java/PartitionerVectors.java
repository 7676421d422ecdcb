// Prints where Kafka's Java client places keys, and which partition its sticky partitioner draws (KIP-794, KIP-1123):
// testdata/partitioners/ holds both. Compiled first, since it stands in the package of what it asks:
//   javac -d OUT -cp kafka-clients-4.4.0.jar PartitionerVectors.java
//   java -cp OUT:kafka-clients-4.4.0.jar:slf4j-api-1.7.36.jar \
//     org.apache.kafka.clients.producer.internals.PartitionerVectors ../partitioners
package org.apache.kafka.clients.producer.internals;

import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.common.*;
import org.apache.kafka.common.utils.internals.LogContext;

public class PartitionerVectors {
    static final int[] PARTITIONS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 17, 31, 50, 64, 100, 127, 256, 1000, 1024, 10007, 65536, 2147483647};

    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        try (PrintStream out = new PrintStream(folder.resolve("java.txt").toFile())) {
            keys(folder, out);
        }
        try (PrintStream out = new PrintStream(folder.resolve("sticky.txt").toFile())) {
            draws(out);
        }
    }

    static byte[] bytes(String key) {
        String[] parts = key.substring(1).split("\\*");
        byte[] piece = HexFormat.of().parseHex(parts[0]);
        int times = parts.length == 2 ? Integer.parseInt(parts[1]) : 1;
        byte[] all = new byte[piece.length * times];
        for (int at = 0; at < all.length; at++) all[at] = piece[at % piece.length];
        return all;
    }

    static void keys(Path folder, PrintStream out) throws Exception {
        out.println("# kafka-clients 4.4.0, BuiltInPartitioner.partitionForKey, by testdata/java/PartitionerVectors.java");
        out.println("partitions " + Arrays.stream(PARTITIONS).mapToObj(Integer::toString).collect(Collectors.joining(" ")));
        for (String key : Files.readAllLines(folder.resolve("keys.txt"))) {
            out.print("default " + key);
            for (int partitions : PARTITIONS)
                out.print(" " + (key.equals("-") ? "sticky" : BuiltInPartitioner.partitionForKey(bytes(key), partitions)));
            out.println();
        }
    }

    /** A partitioner whose chance is an argument. */
    static class Chosen extends BuiltInPartitioner {
        int random;
        Chosen(int batchSize, boolean rackAware, String rack) { super(new LogContext(), "t", batchSize, rackAware, rack); }
        @Override int randomPartition() { return random; }
    }

    // A case: each partition as QUEUE:LEADER, where LEADER is `-` for none, else the leader's rack (`.` for none), with `!`
    // before it for a leader that has kept its records waiting for longer than partitioner.availability.timeout.ms.
    static void draws(PrintStream out) {
        out.println("# kafka-clients 4.4.0, BuiltInPartitioner, by testdata/java/PartitionerVectors.java");
        Random chance = new Random(794);
        for (int number = 0; number < 400; number++) {
            int count = 1 + chance.nextInt(number % 4 == 0 ? 30 : 6);
            boolean rackAware = number % 2 == 1;
            String[] racks = {"a", "b", "."};
            int longest = new int[] {1, 2, 5, 40}[chance.nextInt(4)];
            List<PartitionInfo> infos = new ArrayList<>();
            List<Node> nodes = new ArrayList<>();
            List<Integer> queues = new ArrayList<>(), ids = new ArrayList<>();
            List<String> leaderRacks = new ArrayList<>(), written = new ArrayList<>();
            int present = 0;
            for (int partition = 0; partition < count; partition++) {
                int queue = chance.nextInt(longest);
                boolean leader = chance.nextInt(6) != 0;
                boolean slow = leader && chance.nextInt(number % 5 == 0 ? 2 : 8) == 0;
                String rack = racks[chance.nextInt(3)];
                Node node = leader ? new Node(partition, "h", 1, rack.equals(".") ? null : rack) : null;
                if (leader) nodes.add(node);
                infos.add(new PartitionInfo("t", partition, node, new Node[0], new Node[0]));
                written.add(queue + ":" + (leader ? (slow ? "!" : "") + rack : "-"));
                if (!leader || slow) continue;
                queues.add(queue);
                ids.add(partition);
                leaderRacks.add(rack.equals(".") ? null : rack);
                present++;
            }
            // As RecordAccumulator.partitionReady: arrays of all partitions, of which the first `present` count.
            int[] sizes = new int[count], partitions = new int[count];
            String[] rackOf = new String[count];
            for (int at = 0; at < present; at++) {
                sizes[at] = queues.get(at);
                partitions[at] = ids.get(at);
                rackOf[at] = leaderRacks.get(at);
            }
            Cluster cluster = new Cluster("c", nodes, infos, Set.of(), Set.of());
            Chosen partitioner = new Chosen(1, rackAware, rackAware ? "a" : "");
            partitioner.updatePartitionLoadStats(sizes, partitions, rackOf, present);
            out.print("draw " + (rackAware ? "a" : ".") + " " + String.join(" ", written) + " =");
            BuiltInPartitioner.StickyPartitionInfo info = partitioner.peekCurrentPartitionInfo(cluster);
            for (int round = 0; round < 24; round++) {
                partitioner.random = round < 12 ? round : chance.nextInt(Integer.MAX_VALUE);
                partitioner.updatePartitionInfo(info, 2, cluster);
                info = partitioner.peekCurrentPartitionInfo(cluster);
                out.print(" " + partitioner.random + ":" + info.partition());
            }
            out.println();
        }
    }
}
