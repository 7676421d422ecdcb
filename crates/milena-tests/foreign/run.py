#!/usr/bin/env python3
"""Clients written by others, against one broker: kcat, confluent-kafka, aiokafka, Java's console tools, franz-go.

Each creates a topic, lets two members join a group, produces with every codec, and must see each record exactly once
between its two members, in its partition's order, key, value and header unchanged. When they have left, a third member
must see what is produced then, and nothing of before. Exit 0 if all did.

    python3 run.py --bootstrap 127.0.0.1:9092 --work FOLDER [--java-class-path CP] [CLIENT ...]

FOLDER keeps the Python environment, the Go binary and the clients' logs. Needs python3 with venv, go, java, and kcat,
which is installed with apt-get where we are root and it is missing.
"""

import argparse
import collections
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
N_PARTITIONS = 4
N_RECORDS = 200  # of each codec
TIME_LIMIT = 60.0  # s, for each step


class Failure(Exception):
    """What a client didn't do, told in a sentence."""


def records(client, codec, turn):
    """What is produced: keys spread over the partitions, values that compress."""
    values = (f"{client} {codec} {turn} {i} " + "abc déf " * (i % 40) for i in range(N_RECORDS))
    return [(f"key-{codec}-{i % 50}", value) for i, value in enumerate(values)]


def call(command, log, text=None, **more):
    """Runs a command to its end and gives back its stdout."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIME_LIMIT * 5, **more)
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, command))[:300]}\n{done.stderr}")
    if done.returncode:
        raise Failure(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


class Member:
    """One member of a group: a process whose lines are read as events ("assigned", n) and ("record", ...)."""

    def __init__(self, command, parse, log, assigned_on_stderr=False):
        self.log = log.open("a")
        stderr = subprocess.PIPE if assigned_on_stderr else self.log
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.n_assigned = 0
        self.records = queue.Queue()
        self.parse = parse
        for stream in filter(None, [self.process.stdout, self.process.stderr]):
            threading.Thread(target=self.read, args=(stream,), daemon=True).start()

    def read(self, stream):
        for line in stream:
            self.log.write(line)
            event = self.parse(line.rstrip("\n"))
            if event and event[0] == "assigned":
                self.n_assigned = event[1]
            elif event:
                self.records.put(event[1])

    def stop(self):
        """Lets it leave the group in order."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("a member of the group didn't end when told to") from None
        finally:
            self.log.flush()


class Client:
    """What every client has to offer; each of them says how."""

    def __init__(self, arguments):
        self.bootstrap = arguments.bootstrap
        self.work = arguments.work
        self.class_path = arguments.java_class_path
        self.log = self.work / f"{self.name}.log"

    def set_up(self): ...

    def create(self, topic): ...

    def produce(self, topic, codec, batch): ...

    def join(self, topic, group): ...

    def wait_until_assigned(self, group, members):
        wait(lambda: all(member.n_assigned > 0 for member in members), "all members have partitions")

    def check_group(self, group): ...


def wait(condition, what):
    deadline = time.monotonic() + TIME_LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"not within {TIME_LIMIT:.0f} s: {what}")
        time.sleep(0.05)


def parse_json(line):
    event = json.loads(line)
    if "assigned" in event:
        return "assigned", event["assigned"]
    return "record", (event["partition"], event["offset"], event["key"], event["value"], event["codec"])


class Script(Client):
    """A client driven by a program of ours: `PROGRAM BOOTSTRAP create|produce|consume ...`, see its head."""

    def create(self, topic):
        call([*self.program(), self.bootstrap, "create", topic, str(N_PARTITIONS)], self.log)

    def produce(self, topic, codec, batch):
        call([*self.program(), self.bootstrap, "produce", topic, codec], self.log, json.dumps(batch))

    def join(self, topic, group):
        return Member([*self.program(), self.bootstrap, "consume", topic, group], parse_json, self.log)


class Python(Script):
    def set_up(self):
        environment = self.work / "venv"
        if not (environment / "ready").exists():
            call([sys.executable, "-m", "venv", environment], self.log)
            requirements = HERE / "requirements.txt"
            call([environment / "bin/pip", "install", "--quiet", "-r", requirements], self.log)
            (environment / "ready").touch()

    def program(self):
        return [self.work / "venv/bin/python", HERE / f"{self.module}.py"]


class Confluent(Python):
    name = "confluent-kafka"
    module = "confluent"


class Aiokafka(Python):
    name = "aiokafka"
    module = "aio"


class FranzGo(Script):
    name = "franz-go"

    def set_up(self):
        if not shutil.which("go"):
            raise Failure("there is no Go")
        call(["go", "build", "-o", self.work / "franz-go", "."], self.log, cwd=HERE / "franz-go")

    def program(self):
        return [self.work / "franz-go"]


class Kcat(Client):
    name = "kcat"

    def set_up(self):
        if shutil.which("kcat"):
            return
        if os.geteuid() != 0:
            raise Failure("kcat is missing; install it: apt-get install kcat")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        call(["apt-get", "install", "--yes", "--no-install-recommends", "kcat"], self.log, env=environment)

    def create(self, topic):
        """kcat has no command for it: it asks for the metadata, and a broker that may creates the topic, but with a
        number of partitions of the broker's choice, which may be one. So it gets several topics."""
        self.topics = [f"{topic}-{i}" for i in range(N_PARTITIONS)]
        if all(self.create_on_demand(topic) for topic in self.topics):
            return
        print("    (this broker creates no topic on demand: confluent-kafka creates kcat's)")
        self.topics = [topic]
        helper = Confluent(argparse.Namespace(bootstrap=self.bootstrap, work=self.work, java_class_path=None))
        helper.set_up()
        helper.create(topic)

    def create_on_demand(self, topic):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            listed = json.loads(call(["kcat", "-b", self.bootstrap, "-L", "-J", "-t", topic], self.log))
            if any(entry["topic"] == topic and entry["partitions"] for entry in listed["topics"]):
                return True
        return False

    def produce(self, topic, codec, batch):
        command = ["kcat", "-b", self.bootstrap, "-P", "-K", "\t", "-z", codec, "-H", f"codec={codec}"]
        for i, topic in enumerate(self.topics):
            part = batch[i :: len(self.topics)]
            call([*command, "-t", topic], self.log, "".join(f"{key}\t{value}\n" for key, value in part))

    def join(self, topic, group):
        command = ["kcat", "-b", self.bootstrap, "-G", group, "-u", "-X", "auto.offset.reset=earliest"]
        command += ["-X", "partition.assignment.strategy=roundrobin", "-f", "%t\t%p\t%o\t%h\t%k\t%s\n"]
        return Member([*command, *self.topics], self.parse, self.log, assigned_on_stderr=True)

    @staticmethod
    def parse(line):
        if line.startswith("% Group"):
            return "assigned", line.count("[") if ": assigned:" in line else 0
        if line.startswith("%") or line.count("\t") != 5:
            return None
        topic, partition, offset, headers, key, value = line.split("\t")
        return "record", (f"{topic} {partition}", int(offset), key, value, headers.removeprefix("codec="))


class Java(Client):
    name = "java"
    tools = "org.apache.kafka.tools."

    def set_up(self):
        if not self.class_path:
            raise Failure("no class path of the tools was given (--java-class-path)")

    def command(self, tool, *arguments):
        java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", self.class_path]
        return [*java, self.tools + tool, "--bootstrap-server", self.bootstrap, *arguments]

    def create(self, topic):
        call(self.command("TopicCommand", "--create", "--topic", topic, "--partitions", str(N_PARTITIONS)), self.log)
        described = call(self.command("TopicCommand", "--describe", "--topic", topic), self.log)
        if described.count("Leader: ") != N_PARTITIONS:
            raise Failure(f"kafka-topics --describe shows:\n{described}")

    def produce(self, topic, codec, batch):
        lines = "".join(f"codec:{codec}\t{key}\t{value}\n" for key, value in batch)
        arguments = ["--topic", topic, "--command-property", f"compression.type={codec}"]
        for name in ["parse.key", "parse.headers"]:
            arguments += ["--reader-property", f"{name}=true"]
        call(self.command("ConsoleProducer", *arguments), self.log, lines)

    def join(self, topic, group):
        arguments = ["--topic", topic, "--group", group, "--from-beginning"]
        for name in ["partition", "offset", "headers", "key"]:
            arguments += ["--formatter-property", f"print.{name}=true"]
        return Member(self.command("consumer.ConsoleConsumer", *arguments), self.parse, self.log)

    @staticmethod
    def parse(line):
        fields = line.split("\t")
        if len(fields) != 5:
            return None
        partition, offset = int(fields[0].removeprefix("Partition:")), int(fields[1].removeprefix("Offset:"))
        return "record", (partition, offset, fields[3], fields[4], fields[2].removeprefix("codec:"))

    def groups(self, group, *arguments):
        return call(self.command("consumer.group.ConsumerGroupCommand", "--group", group, *arguments), self.log)

    def wait_until_assigned(self, group, members):
        """The console consumer doesn't say; the group command does."""

        def all_have_some():
            try:
                text = self.groups(group, "--describe", "--members")
            except Failure:
                return False  # the coordinator, or the group, isn't there yet
            n_partitions = [int(n) for n in re.findall(rf"^{group}\s.*\s(\d+)\s*$", text, re.MULTILINE)]
            return len(n_partitions) == len(members) and all(n > 0 for n in n_partitions)

        wait(all_have_some, f"kafka-consumer-groups shows {len(members)} members with partitions")

    def check_group(self, group):
        """The members have left, having committed what they printed."""
        text = self.groups(group, "--describe")
        lags = re.findall(rf"^{group}\s+\S+\s+\d+\s+\d+\s+\d+\s+(\d+)", text, re.MULTILINE)
        if len(lags) != N_PARTITIONS or any(lag != "0" for lag in lags):
            raise Failure(f"kafka-consumer-groups --describe shows lag:\n{text}")


def check(seen, expected):
    """Each record once, unchanged, and each partition in its order."""
    n_places = len({(partition, offset) for member in seen for partition, offset, *_ in member})
    if n_places != sum(map(len, seen)):
        raise Failure("a record was seen more than once")
    found = collections.Counter((key, value, codec) for member in seen for _, _, key, value, codec in member)
    if found != expected:
        missing, strange = expected - found, found - expected
        raise Failure(f"{missing.total()} records missing, {strange.total()} that nobody produced, such as "
                      f"{list(missing)[:1]} and {list(strange)[:1]}")
    for member in seen:
        last = {}
        for partition, offset, *_ in member:
            if offset <= last.get(partition, -1):
                raise Failure(f"partition {partition}: offset {offset} came after {last[partition]}")
            last[partition] = offset


def consume(client, topic, group, n_members, codecs, turn):
    """Members join, records are produced, the members see them and leave. Gives back how many each saw."""
    members = []
    try:
        members = [client.join(topic, group) for _ in range(n_members)]
        client.wait_until_assigned(group, members)
        expected = collections.Counter()
        for codec in codecs:
            batch = records(client.name, codec, turn)
            client.produce(topic, codec, batch)
            expected.update((key, value, codec) for key, value in batch)
        wanted = expected.total()
        wait(lambda: sum(member.records.qsize() for member in members) >= wanted, f"{wanted} records")
        for member in members:
            member.stop()
        seen = [list(member.records.queue) for member in members]
        check(seen, expected)
        if not all(seen):
            raise Failure("a member of the group saw nothing")
        return [len(member) for member in seen]
    except Failure as failure:
        seen = [member.records.qsize() for member in members]
        raise Failure(f"{failure} (topic {topic}, records seen {seen}, log {client.log})") from None
    finally:
        for member in members:
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()


def exercise(client):
    client.set_up()
    topic, group = (f"{client.name}-{what}-{uuid.uuid4().hex[:8]}" for what in ["topic", "group"])
    client.create(topic)
    seen = consume(client, topic, group, 2, CODECS, "first")
    # Whoever comes next sees what is new and nothing else: the two have committed, and left.
    consume(client, topic, group, 1, CODECS[-1:], "second")
    client.check_group(group)
    return f"created a topic; of {sum(seen)} records with {len(CODECS)} codecs, two members saw {seen[0]} + {seen[1]}"


def main():
    clients = {kind.name: kind for kind in [Kcat, Confluent, Aiokafka, Java, FranzGo]}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--work", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--java-class-path", metavar="CP")
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(clients))
    arguments = parser.parse_args()
    for name in arguments.clients:
        if name not in clients:
            parser.error(f"no client {name!r}; there are {', '.join(clients)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    n_failed = 0
    for name in arguments.clients or clients:
        began = time.monotonic()
        try:
            outcome = "ok    " + exercise(clients[name](arguments))
        except (Failure, OSError, subprocess.TimeoutExpired) as failure:
            outcome = f"FAILED {failure}"
            n_failed += 1
        print(f"{name:16} {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
