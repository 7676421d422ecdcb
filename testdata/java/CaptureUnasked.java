import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.message.*;
import org.apache.kafka.common.metrics.*;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.requests.RequestHeader;
import org.apache.kafka.common.requests.RequestUtils;
import org.apache.kafka.common.requests.ResponseHeader;
import org.apache.kafka.server.telemetry.*;

/**
 * The requests that the Java client sends to no such broker unasked, written by its own message classes and sent one by
 * one through the proxy of CaptureFrames. The broker must have {@link Telemetry} among its metric.reporters.
 *
 * Usage: java CaptureUnasked DIRECTORY PLAIN_PROXY=PLAIN_BROKER (ports). See ../frames/capture.sh.
 */
public final class CaptureUnasked {
    /** Lets a broker speak KIP-714, and keeps nothing. */
    public static final class Telemetry implements MetricsReporter, ClientTelemetry {
        public void configure(Map<String, ?> configs) {}
        public void init(List<KafkaMetric> metrics) {}
        public void metricChange(KafkaMetric metric) {}
        public void metricRemoval(KafkaMetric metric) {}
        public void close() {}

        public ClientTelemetryReceiver clientReceiver() {
            return (context, payload) -> {};
        }
    }

    static DataInputStream in;
    static DataOutputStream out;
    static int correlationId;

    public static void main(String[] args) throws Exception {
        String plain = CaptureFrames.proxy(args[1]);
        String topic = "unasked-" + Long.toHexString(System.nanoTime());
        try (Admin admin = Admin.create(CaptureFrames.config(plain))) {
            admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1), new NewTopic(topic + "-2", 1, (short) 1))).all().get();
            CaptureFrames.producer(CaptureFrames.config(plain)).send(CaptureFrames.record(topic, 0)).get();
            admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.CLIENT_METRICS, "golden"),
                List.of(new AlterConfigOp(new ConfigEntry("interval.ms", "100"), AlterConfigOp.OpType.SET),
                    new AlterConfigOp(new ConfigEntry("metrics", "*"), AlterConfigOp.OpType.SET)))).all().get();
        }
        // Until the groups of `streams` have a coordinator.
        try (Admin admin = Admin.create(CaptureFrames.config(plain))) {
            for (int version = 0; version <= 1; version++) {
                admin.listConsumerGroupOffsets(topic + "-v" + version).partitionsToOffsetAndMetadata().get();
            }
        }
        try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), Integer.parseInt(plain.split(":")[1]))) {
            socket.setSoTimeout(10_000);
            in = new DataInputStream(socket.getInputStream());
            out = new DataOutputStream(socket.getOutputStream());
            alterConfigs(topic);
            offsetForLeaderEpoch(topic);
            telemetry();
            streams(topic);
        }
        CaptureFrames.write(Path.of(args[0]));
        System.exit(0);
    }

    /** Sends a request and gives back the body of its response. */
    static ByteBuffer send(ApiKeys api, short version, Message request) throws Exception {
        RequestHeader header = new RequestHeader(api, version, "golden", ++correlationId);
        ByteBuffer frame = RequestUtils.serialize(header.data(), header.headerVersion(), request, version);
        out.writeInt(frame.remaining());
        out.write(frame.array(), frame.arrayOffset() + frame.position(), frame.remaining());
        out.flush();
        byte[] response = new byte[in.readInt()];
        in.readFully(response);
        ByteBuffer body = ByteBuffer.wrap(response);
        ResponseHeader.parse(body, api.responseHeaderVersion(version));
        return body;
    }

    static void alterConfigs(String topic) throws Exception {
        for (short version = 0; version <= 2; version++) {
            AlterConfigsRequestData.AlterableConfigCollection configs = new AlterConfigsRequestData.AlterableConfigCollection();
            configs.add(new AlterConfigsRequestData.AlterableConfig().setName("retention.ms").setValue("3600000"));
            AlterConfigsRequestData.AlterableConfigCollection refused = new AlterConfigsRequestData.AlterableConfigCollection();
            refused.add(new AlterConfigsRequestData.AlterableConfig().setName("retention.ms").setValue(null));
            AlterConfigsRequestData.AlterConfigsResourceCollection resources = new AlterConfigsRequestData.AlterConfigsResourceCollection();
            resources.add(new AlterConfigsRequestData.AlterConfigsResource().setResourceType((byte) 2).setResourceName(topic).setConfigs(configs));
            resources.add(new AlterConfigsRequestData.AlterConfigsResource().setResourceType((byte) 2).setResourceName(topic + "-2").setConfigs(refused));
            ByteBuffer body = send(ApiKeys.ALTER_CONFIGS, version, new AlterConfigsRequestData().setResources(resources).setValidateOnly(true));
            System.err.println(new AlterConfigsResponseData(new ByteBufferAccessor(body), version));
        }
    }

    static void offsetForLeaderEpoch(String topic) throws Exception {
        for (short version = 2; version <= 4; version++) {
            List<OffsetForLeaderEpochRequestData.OffsetForLeaderPartition> partitions = new ArrayList<>();
            for (int partition : new int[] {0, 9}) {
                partitions.add(new OffsetForLeaderEpochRequestData.OffsetForLeaderPartition()
                    .setPartition(partition).setCurrentLeaderEpoch(0).setLeaderEpoch(0));
            }
            OffsetForLeaderEpochRequestData.OffsetForLeaderTopicCollection topics = new OffsetForLeaderEpochRequestData.OffsetForLeaderTopicCollection();
            topics.add(new OffsetForLeaderEpochRequestData.OffsetForLeaderTopic().setTopic(topic).setPartitions(partitions));
            // A consumer's replica id is -1, or, from version 3 on, -2 for one that debugs.
            ByteBuffer body = send(ApiKeys.OFFSET_FOR_LEADER_EPOCH, version,
                new OffsetForLeaderEpochRequestData().setReplicaId(version < 3 ? -2 : -1).setTopics(topics));
            System.err.println(new OffsetForLeaderEpochResponseData(new ByteBufferAccessor(body), version));
        }
    }

    static void telemetry() throws Exception {
        short version = 0;
        ByteBuffer body = send(ApiKeys.GET_TELEMETRY_SUBSCRIPTIONS, version,
            new GetTelemetrySubscriptionsRequestData().setClientInstanceId(Uuid.ZERO_UUID));
        GetTelemetrySubscriptionsResponseData subscription = new GetTelemetrySubscriptionsResponseData(new ByteBufferAccessor(body), version);
        System.err.println(subscription);
        // One empty ResourceMetrics of OpenTelemetry.
        body = send(ApiKeys.PUSH_TELEMETRY, version, new PushTelemetryRequestData()
            .setClientInstanceId(subscription.clientInstanceId()).setSubscriptionId(subscription.subscriptionId())
            .setTerminating(true).setCompressionType((byte) 0).setMetrics(ByteBuffer.wrap(new byte[] {10, 0})));
        System.err.println(new PushTelemetryResponseData(new ByteBufferAccessor(body), version));
    }

    static void streams(String topic) throws Exception {
        String member = Uuid.randomUuid().toString();
        for (short version = ApiKeys.STREAMS_GROUP_HEARTBEAT.oldestVersion(); version <= ApiKeys.STREAMS_GROUP_HEARTBEAT.latestVersion(); version++) {
            String group = topic + "-v" + version;
            ByteBuffer body = send(ApiKeys.STREAMS_GROUP_HEARTBEAT, version, new StreamsGroupHeartbeatRequestData()
                .setGroupId(group).setMemberId(member).setMemberEpoch(0).setRebalanceTimeoutMs(30_000).setProcessId("process")
                .setActiveTasks(List.of()).setStandbyTasks(List.of()).setWarmupTasks(List.of())
                .setClientTags(List.of(new StreamsGroupHeartbeatRequestData.KeyValue().setKey("zone").setValue("a")))
                .setUserEndpoint(new StreamsGroupHeartbeatRequestData.Endpoint().setHost("localhost").setPort(8080))
                .setTopology(new StreamsGroupHeartbeatRequestData.Topology().setEpoch(1).setSubtopologies(List.of(
                    new StreamsGroupHeartbeatRequestData.Subtopology().setSubtopologyId("0").setSourceTopics(List.of(topic))))));
            System.err.println(new StreamsGroupHeartbeatResponseData(new ByteBufferAccessor(body), version));
            short update = ApiKeys.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE.latestVersion();
            body = send(ApiKeys.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE, update, new StreamsGroupTopologyDescriptionUpdateRequestData()
                .setGroupId(group).setMemberId(member).setTopologyEpoch(1)
                .setTopologyDescription(new StreamsGroupTopologyDescriptionUpdateRequestData.TopologyDescription()
                    .setGlobalStores(List.of())
                    .setSubtopologies(List.of(new StreamsGroupTopologyDescriptionUpdateRequestData.TopologyDescriptionSubtopology()
                        .setSubtopologyId("0").setNodes(List.of(new StreamsGroupTopologyDescriptionUpdateRequestData.TopologyDescriptionNode()
                            .setName("source").setNodeType((byte) 0).setSourceTopics(List.of(topic)).setStores(List.of()).setSuccessors(List.of())))))));
            System.err.println(new StreamsGroupTopologyDescriptionUpdateResponseData(new ByteBufferAccessor(body), update));
        }
    }
}
