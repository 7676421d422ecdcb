// Prints what the assignors of Kafka's Java client answer to seeded random groups: crates/milena-core/src/group/assignor/
// reads the output (assignors.txt beside this file). Run with the kafka-clients and slf4j-api jars on the class path:
//   java -cp kafka-clients-4.4.0.jar:slf4j-api-1.7.36.jar AssignorVectors.java > assignors.txt
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.*;
import org.apache.kafka.common.*;

public class AssignorVectors {
    static final String[] RACKS = {"ra", "rb", "rc"};

    static class Member {
        String id; String instance; String rack; Integer generation;
        List<String> topics = new ArrayList<>();
        List<TopicPartition> owned = new ArrayList<>();
    }

    public static void main(String[] args) {
        for (String name : List.of("range", "roundrobin", "sticky", "cooperative-sticky"))
            for (int seed = 0; seed < 20; seed++)
                chain(name, new Random(seed * 7919L + name.length()), seed);
    }

    /** One group through several rebalances: members come, go and resubscribe, topics grow. */
    static void chain(String name, Random random, int seed) {
        boolean racks = seed % 4 == 3;
        boolean sameTopics = seed % 2 == 0;
        boolean lies = seed % 5 == 4;
        TreeMap<String, List<List<String>>> topics = new TreeMap<>();
        int topicCount = 1 + random.nextInt(5);
        for (int t = 0; t < topicCount; t++) {
            List<List<String>> partitions = new ArrayList<>();
            int count = random.nextInt(8) == 0 ? 0 : 1 + random.nextInt(9);
            for (int p = 0; p < count; p++) partitions.add(replicas(random, racks));
            topics.put("topic-" + t, partitions);
        }
        List<Member> members = new ArrayList<>();
        int next = 0;
        for (int m = 0, n = 1 + random.nextInt(7); m < n; m++) members.add(member(next++, random, topics, sameTopics, racks));
        for (int round = 1; round <= 5; round++) {
            Map<String, List<TopicPartition>> result = run(name, topics, members);
            print(name, topics, members, result);
            for (Member m : members) {
                if (lies && random.nextInt(4) == 0) continue;
                m.owned = new ArrayList<>(result.get(m.id));
                m.generation = round;
            }
            if (lies && random.nextInt(2) == 0 && members.size() > 1)
                members.get(0).owned.addAll(members.get(1).owned.subList(0, Math.min(1, members.get(1).owned.size())));
            for (int m = members.size() - 1; m >= 0 && members.size() > 1; m--)
                if (random.nextInt(4) == 0) members.remove(m);
            while (random.nextInt(2) == 0) members.add(member(next++, random, topics, sameTopics, racks));
            if (!sameTopics && random.nextInt(3) == 0)
                members.get(random.nextInt(members.size())).topics = subscription(random, topics, false);
            if (random.nextInt(3) == 0)
                topics.get("topic-" + random.nextInt(topicCount)).add(replicas(random, racks));
        }
    }

    static List<String> replicas(Random random, boolean racks) {
        if (!racks) return List.of();
        return Arrays.stream(RACKS).filter(r -> random.nextInt(2) == 0).collect(Collectors.toList());
    }

    static List<String> subscription(Random random, Map<String, ?> topics, boolean all) {
        List<String> chosen = new ArrayList<>();
        for (String topic : topics.keySet()) if (all || random.nextInt(3) > 0) chosen.add(topic);
        // Never none: with equal subscriptions otherwise, Java gives partitions even to a member that asked for nothing.
        if (chosen.isEmpty()) chosen.add(topics.keySet().iterator().next());
        return chosen;
    }

    static Member member(int n, Random random, Map<String, ?> topics, boolean sameTopics, boolean racks) {
        Member m = new Member();
        m.id = "consumer-" + Long.toHexString(random.nextLong()) + "-" + n;
        m.instance = random.nextInt(4) == 0 ? "static-" + n : null;
        m.rack = racks && random.nextInt(5) > 0 ? RACKS[random.nextInt(RACKS.length)] : null;
        m.topics = subscription(random, topics, sameTopics);
        return m;
    }

    static Map<String, List<TopicPartition>> run(String name, Map<String, List<List<String>>> topics, List<Member> members) {
        ConsumerPartitionAssignor assignor = switch (name) {
            case "range" -> new RangeAssignor();
            case "roundrobin" -> new RoundRobinAssignor();
            case "sticky" -> new StickyAssignor();
            default -> new CooperativeStickyAssignor();
        };
        List<PartitionInfo> infos = new ArrayList<>();
        topics.forEach((topic, partitions) -> {
            for (int p = 0; p < partitions.size(); p++) {
                List<String> on = partitions.get(p);
                Node[] nodes = new Node[on.size()];
                for (int i = 0; i < nodes.length; i++) nodes[i] = new Node(Arrays.asList(RACKS).indexOf(on.get(i)), "h", 1, on.get(i));
                infos.add(new PartitionInfo(topic, p, null, nodes, nodes));
            }
        });
        Cluster cluster = new Cluster("c", List.of(), infos, Set.of(), Set.of());
        Map<String, Subscription> subscriptions = new HashMap<>();
        for (Member m : members) {
            ByteBuffer userData = name.equals("sticky") && m.generation != null ? userData(m) : null;
            Subscription s = new Subscription(m.topics, userData, m.owned,
                m.generation == null ? -1 : m.generation, Optional.ofNullable(m.rack));
            s.setGroupInstanceId(Optional.ofNullable(m.instance));
            subscriptions.put(m.id, s);
        }
        Map<String, List<TopicPartition>> result = new TreeMap<>();
        assignor.assign(cluster, new GroupSubscription(subscriptions)).groupAssignment()
            .forEach((id, assignment) -> result.put(id, assignment.partitions()));
        return result;
    }

    static ByteBuffer userData(Member m) {
        TreeMap<String, List<Integer>> byTopic = new TreeMap<>();
        for (TopicPartition tp : m.owned) byTopic.computeIfAbsent(tp.topic(), t -> new ArrayList<>()).add(tp.partition());
        ByteBuffer out = ByteBuffer.allocate(65536);
        out.putInt(byTopic.size());
        byTopic.forEach((topic, partitions) -> {
            byte[] bytes = topic.getBytes(StandardCharsets.UTF_8);
            out.putShort((short) bytes.length).put(bytes).putInt(partitions.size());
            partitions.forEach(out::putInt);
        });
        out.putInt(m.generation);
        out.flip();
        return out;
    }

    static String join(Collection<String> parts) {
        return parts.isEmpty() ? "-" : String.join("+", parts);
    }

    static String or(Object value) {
        return value == null ? "-" : value.toString();
    }

    static String partitions(List<TopicPartition> partitions) {
        return join(partitions.stream().map(tp -> tp.topic() + ":" + tp.partition()).collect(Collectors.toList()));
    }

    static void print(String name, Map<String, List<List<String>>> topics, List<Member> members,
                      Map<String, List<TopicPartition>> result) {
        System.out.println("case " + name);
        topics.forEach((topic, partitions) -> System.out.println("topic " + topic
            + partitions.stream().map(p -> " " + join(p)).collect(Collectors.joining())));
        for (Member m : members)
            System.out.println("member " + m.id + " " + or(m.instance) + " " + or(m.rack) + " " + or(m.generation) + " "
                + join(m.topics) + " " + partitions(m.owned));
        result.forEach((id, partitions) -> {
            List<TopicPartition> sorted = new ArrayList<>(partitions);
            sorted.sort(Comparator.comparing(TopicPartition::topic).thenComparing(TopicPartition::partition));
            System.out.println("expect " + id + " " + partitions(sorted));
        });
    }
}
