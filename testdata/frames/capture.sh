#!/usr/bin/env bash
# Captures the golden frames of this folder anew, from a real Kafka 4.4.0 broker and Java clients of four releases.
# Needs Java, Maven, and the broker's jars where `cargo xtask kafka up` keeps them. What exists is kept: to capture
# everything again, delete *.bin first.
set -eu
frames=$(cd "$(dirname "$0")" && pwd)
jars=${MILENA_CACHE:-$HOME/.cache/milena}/kafka_2.13-4.4.0
[ -d "$jars" ] || { echo "run \`cargo xtask kafka up --via maven\` once, for the jars" >&2; exit 1; }
if (exec 3<>/dev/tcp/127.0.0.1/47092) 2>/dev/null; then echo "something else listens on 47092" >&2; exit 1; fi
work=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker"; wait; rm -rf "$work"' EXIT

# Clients find the broker at the ports of the proxy (471xx), the proxy finds it at its own (470xx).
cat >"$work/server.properties" <<END
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:47092,SASL_PLAINTEXT://127.0.0.1:47094,CONTROLLER://127.0.0.1:47093
advertised.listeners=PLAINTEXT://127.0.0.1:47192,SASL_PLAINTEXT://127.0.0.1:47194
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:47093
log.dirs=$work/data
broker.rack=r1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="secret";
delegation.token.secret.key=secret
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
metric.reporters=CaptureUnasked\$Telemetry
group.coordinator.rebalance.protocols=classic,consumer,share,streams
END
mkdir -p "$work/unasked"
javac -nowarn -d "$work/unasked" -cp "$jars/*" "$frames/../java/CaptureFrames.java" "$frames/../java/CaptureUnasked.java"
id=$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid 2>/dev/null)
java -cp "$jars/*" kafka.tools.StorageTool format -t "$id" -c "$work/server.properties" --standalone >/dev/null 2>&1
java -Xms256m -Xmx512m -XX:+UseSerialGC -cp "$jars/*:$work/unasked" kafka.Kafka "$work/server.properties" >"$work/broker.log" 2>&1 &
broker=$!
tries=0
until (exec 3<>/dev/tcp/127.0.0.1/47092) 2>/dev/null; do
  tries=$((tries + 1))
  kill -0 "$broker" && [ "$tries" -lt 120 ] || { echo "the broker did not come up:" >&2; tail "$work/broker.log" >&2; exit 1; }
  sleep 0.5
done

# The broker's own release comes first: of a version that several clients use, the first client's frames are kept.
for version in 4.4.0 3.9.1 2.8.2 2.1.1; do
  echo "client $version" >&2
  if [ "$version" = 4.4.0 ]; then
    client="$jars/kafka-clients-4.4.0.jar"
    sources="$frames/../java/CaptureFrames.java $frames/../java/CaptureRecent.java"
  else
    mvn -q -B dependency:copy -Dartifact="org.apache.kafka:kafka-clients:$version" -DoutputDirectory="$work"
    client=$work/kafka-clients-$version.jar
    sources=$frames/../java/CaptureFrames.java
  fi
  # The codecs' and the logger's jars fit every release.
  libraries=$(ls "$jars"/slf4j-api-*.jar "$jars"/lz4-java-*.jar "$jars"/snappy-java-*.jar "$jars"/zstd-jni-*.jar "$jars"/jackson-*.jar | tr '\n' ':')
  mkdir -p "$work/classes-$version"
  # shellcheck disable=SC2086 # several paths, none with a space
  javac -nowarn -d "$work/classes-$version" -cp "$client" $sources
  java -cp "$work/classes-$version:$client:$libraries" CaptureFrames "$frames" 47192=47092 47194=47094
done

# What no client sends to such a broker unasked.
java -cp "$work/unasked:$jars/*" CaptureUnasked "$frames" 47192=47092
