import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.*;

/** The rest of CaptureFrames: what the Java client of 4.4 can do and older ones can't. */
public final class CaptureRecent {
    public static void run(String plain, String sasl) throws Exception {
        String run = Long.toHexString(System.nanoTime());
        String topic = "recent-" + run;
        try (Admin admin = Admin.create(CaptureFrames.config(plain, "enable.metrics.push", "true"))) {
            admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1))).all().get();
            try (Producer<byte[], byte[]> producer = CaptureFrames.producer(CaptureFrames.config(plain, "compression.type", "zstd"))) {
                for (int i = 0; i < 10; i++) producer.send(CaptureFrames.record(topic, i)).get();
            }
            TopicPartition partition = new TopicPartition(topic, 0);
            topics(admin, topic, partition);
            cluster(admin);
            groups(admin, plain, topic, partition, run);
            shareGroups(admin, plain, topic, partition, run);
            transactions(admin, plain, topic, partition, run);
        }
    }

    private static void topics(Admin admin, String topic, TopicPartition partition) {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        step("incremental", () -> admin.incrementalAlterConfigs(Map.of(resource,
            List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET)))).all().get());
        step("documented", () -> admin.describeConfigs(List.of(resource),
            new DescribeConfigsOptions().includeDocumentation(true).includeSynonyms(true)).all().get());
        step("metrics", () -> admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.CLIENT_METRICS, "golden"),
            List.of(new AlterConfigOp(new ConfigEntry("interval.ms", "100"), AlterConfigOp.OpType.SET),
                new AlterConfigOp(new ConfigEntry("metrics", "*"), AlterConfigOp.OpType.SET)))).all().get());
        step("resources", () -> admin.listConfigResources().all().get());
        step("offsets", () -> admin.listOffsets(Map.of(partition, OffsetSpec.maxTimestamp())).all().get());
        step("reassign", () -> admin.alterPartitionReassignments(
            Map.of(partition, Optional.of(new NewPartitionReassignment(List.of(1))))).all().get());
        step("cancel", () -> admin.alterPartitionReassignments(Map.of(partition, Optional.empty())).all().get());
        step("reassignments", () -> admin.listPartitionReassignments().reassignments().get());
        step("elect", () -> admin.electLeaders(ElectionType.PREFERRED, Set.of(partition)).all().get());
        step("replica dirs", () -> admin.describeReplicaLogDirs(List.of(new TopicPartitionReplica(topic, 0, 1))).all().get());
        step("alter dirs", () -> admin.alterReplicaLogDirs(Map.of(new TopicPartitionReplica(topic, 0, 1), "/nowhere")).all().get());
        step("topics by id", () -> {
            Uuid id = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).topicId();
            admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds().get();
            admin.deleteTopics(TopicCollection.ofTopicIds(List.of(Uuid.randomUuid()))).all().get();
        });
    }

    private static void cluster(Admin admin) {
        ClientQuotaEntity user = new ClientQuotaEntity(Map.of("user", "alice"));
        step("quotas", () -> admin.alterClientQuotas(List.of(
            new ClientQuotaAlteration(user, List.of(new ClientQuotaAlteration.Op("producer_byte_rate", 1048576.0))))).all().get());
        step("describe quotas", () -> admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get());
        step("scram", () -> admin.alterUserScramCredentials(List.of(
            new UserScramCredentialUpsertion("bob", new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), "password"))).all().get());
        step("describe scram", () -> admin.describeUserScramCredentials().all().get());
        step("features", () -> admin.describeFeatures().featureMetadata().get());
        step("update features", () -> admin.updateFeatures(
            Map.of("group.version", new FeatureUpdate((short) 1, FeatureUpdate.UpgradeType.UPGRADE)), new UpdateFeaturesOptions().validateOnly(true)).all().get());
        step("quorum", () -> admin.describeMetadataQuorum().quorumInfo().get());
        step("unregister", () -> admin.unregisterBroker(99).all().get());
        step("unregister controller", () -> admin.unregisterController(99, new UnregisterControllerOptions()).all().get());
        step("add voter", () -> admin.addRaftVoter(99, Uuid.randomUuid(), Set.of(new RaftVoterEndpoint("CONTROLLER", "localhost", 1))).all().get());
        step("remove voter", () -> admin.removeRaftVoter(99, Uuid.randomUuid()).all().get());
        step("fenced brokers", () -> admin.describeCluster(new DescribeClusterOptions().includeFencedBrokers(true)).nodes().get());
        step("instance id", () -> admin.clientInstanceId(Duration.ofSeconds(5)));
    }

    private static void groups(Admin admin, String plain, String topic, TopicPartition partition, String run) {
        String group = "recent-group-" + run;
        step("consumer protocol", () -> {
            try (Consumer<byte[], byte[]> consumer = CaptureFrames.consumer(CaptureFrames.config(plain,
                "group.id", group, "group.protocol", "consumer", "enable.metrics.push", "true", "enable.auto.commit", "false"))) {
                consumer.subscribe(List.of(topic));
                for (int i = 0; i < 20 && consumer.poll(Duration.ofMillis(300)).isEmpty(); i++) { }
                consumer.commitSync();
                admin.describeConsumerGroups(List.of(group)).all().get();
                step("consumer's instance id", () -> consumer.clientInstanceId(Duration.ofSeconds(5)));
                long until = System.nanoTime() + Duration.ofMillis(5500).toNanos();
                while (System.nanoTime() < until) consumer.poll(Duration.ofMillis(300));
            }
        });
        step("static member", () -> {
            String classic = group + "-static";
            try (Consumer<byte[], byte[]> consumer = CaptureFrames.consumer(CaptureFrames.config(plain,
                "group.id", classic, "group.instance.id", "one", "client.rack", "r1", "enable.auto.commit", "false"))) {
                consumer.subscribe(List.of(topic));
                for (int i = 0; i < 20 && consumer.poll(Duration.ofMillis(300)).isEmpty(); i++) { }
                consumer.commitSync();
                admin.describeClassicGroups(List.of(classic)).all().get();
            }
            admin.removeMembersFromConsumerGroup(classic,
                new RemoveMembersFromConsumerGroupOptions(Set.of(new MemberToRemove("one")))).all().get();
        });
        step("list groups", () -> admin.listGroups().all().get());
        step("alter offsets", () -> admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(1))).all().get());
        step("several offsets", () -> admin.listConsumerGroupOffsets(Map.of(
            group, new ListConsumerGroupOffsetsSpec(), "nobody", new ListConsumerGroupOffsetsSpec())).all().get());
        step("delete offsets", () -> admin.deleteConsumerGroupOffsets(group, Set.of(partition)).all().get());
        step("delete unknown group", () -> admin.deleteConsumerGroups(List.of("nobody")).all().get());
        step("streams group", () -> admin.describeStreamsGroups(List.of("nobody")).all().get());
    }

    private static void shareGroups(Admin admin, String plain, String topic, TopicPartition partition, String run) {
        String group = "recent-share-" + run;
        step("earliest", () -> admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.GROUP, group),
            List.of(new AlterConfigOp(new ConfigEntry("share.auto.offset.reset", "earliest"), AlterConfigOp.OpType.SET)))).all().get());
        step("share consumer", () -> {
            Map<String, Object> config = CaptureFrames.config(plain, "group.id", group, "share.acknowledgement.mode", "explicit");
            config.put("key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
            config.put("value.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
            try (KafkaShareConsumer<byte[], byte[]> consumer = new KafkaShareConsumer<>(config)) {
                consumer.subscribe(List.of(topic));
                int records = 0;
                for (int i = 0; i < 40 && records < 10; i++) {
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(300))) {
                        consumer.acknowledge(record, records++ % 3 == 0 ? AcknowledgeType.RELEASE : AcknowledgeType.ACCEPT);
                    }
                    consumer.commitSync();
                }
                System.err.println(records + " records shared");
                admin.describeShareGroups(List.of(group)).all().get();
            }
        });
        step("share offsets", () -> admin.listShareGroupOffsets(Map.of(group, new ListShareGroupOffsetsSpec())).all().get());
        step("alter share offsets", () -> admin.alterShareGroupOffsets(group, Map.of(partition, 0L)).all().get());
        step("delete share offsets", () -> admin.deleteShareGroupOffsets(group, Set.of(topic)).all().get());
    }

    private static void transactions(Admin admin, String plain, String topic, TopicPartition partition, String run) {
        String id = "recent-transaction-" + run;
        step("open transaction", () -> {
            try (Producer<byte[], byte[]> producer = CaptureFrames.producer(CaptureFrames.config(plain, "transactional.id", id))) {
                producer.initTransactions();
                producer.beginTransaction();
                producer.send(CaptureFrames.record(topic, 0)).get();
                admin.listTransactions().all().get();
                admin.describeTransactions(List.of(id)).all().get();
                ProducerState state = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers().get(0);
                step("abort from outside", () -> admin.abortTransaction(new AbortTransactionSpec(partition, state.producerId(),
                    (short) state.producerEpoch(), state.coordinatorEpoch().orElse(0))).all().get());
                step("fence", () -> admin.fenceProducers(List.of(id)).all().get());
            }
        });
    }

    private static void step(String name, CaptureFrames.Step step) {
        CaptureFrames.step(name, step);
    }
}
