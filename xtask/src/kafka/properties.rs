//! The configuration of one node, as text. Decides what our clusters are like; starts nothing.

use std::fmt::Write as _;

/// How one node is reached, by clients and by its peers.
pub(super) struct Addresses {
    /// `listeners`, all but the controller's.
    pub(super) listeners: String,
    /// `advertised.listeners`.
    pub(super) advertised_listeners: String,
    /// The controller's listener.
    pub(super) controller_listener: String,
    /// The listener by which brokers replicate.
    pub(super) inter_broker: &'static str,
    /// `controller.quorum.voters`, the same for every node.
    pub(super) voters: String,
}

/// `server.properties` of `node` in a cluster of `n_nodes`, keeping its data under `data`.
///
/// Small heaps and quick failure detection, for many clusters on one small machine: few internal partitions, a cleaner
/// buffer of 4 MiB instead of 128, a dead broker noticed in 3 s instead of 9. Everything else is Kafka's default,
/// except that topics must be created.
pub(super) fn server(node: u16, n_nodes: u16, addresses: &Addresses, data: &str) -> String {
    let replicas = n_nodes.min(3);
    let min_isr = replicas.min(2);
    let mut text = String::new();
    let mut set = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a String can't fail");
    };
    set("process.roles", &"broker,controller");
    set("node.id", &node);
    set("broker.rack", &format_args!("r{node}"));
    set("listeners", &format_args!("{},{}", addresses.listeners, addresses.controller_listener));
    set("advertised.listeners", &addresses.advertised_listeners);
    set("controller.listener.names", &"CONTROLLER");
    set("inter.broker.listener.name", &addresses.inter_broker);
    set(
        "listener.security.protocol.map",
        &"CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,PROXIED:PLAINTEXT",
    );
    set("controller.quorum.voters", &addresses.voters);
    set("log.dirs", &data);

    set("default.replication.factor", &replicas);
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        set(&format!("{topic}.replication.factor"), &replicas);
        set(&format!("{topic}.num.partitions"), &4);
    }
    set("transaction.state.log.min.isr", &min_isr);
    set("share.coordinator.state.topic.min.isr", &min_isr);
    set("replica.selector.class", &"org.apache.kafka.common.replica.RackAwareReplicaSelector");

    set("auto.create.topics.enable", &false);
    set("group.initial.rebalance.delay.ms", &0);
    set("group.min.session.timeout.ms", &1000);
    set("broker.session.timeout.ms", &3000);
    set("broker.heartbeat.interval.ms", &500);
    set("log.cleaner.dedupe.buffer.size", &(4 << 20));
    set("log.index.size.max.bytes", &(1 << 20));
    set("num.network.threads", &2);
    set("num.io.threads", &4);
    set("group.coordinator.threads", &1);
    text
}

/// Log4j's configuration: warnings, to the file the process writes to anyway.
pub(super) const LOG4J: &str = "\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
";
