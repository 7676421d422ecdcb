"""aiokafka, for run.py.

BOOTSTRAP create TOPIC N_PARTITIONS | produce TOPIC CODEC (stdin: [[key, value], ...]) | consume TOPIC GROUP, until
SIGTERM. Consuming prints {"assigned": N} and {"partition", "offset", "key", "value", "codec"}, one object a line.
"""

import asyncio
import json
import signal
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def create(bootstrap, topic, n_partitions):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(topic, num_partitions=int(n_partitions), replication_factor=1)])
        errors = [error for error in response.topic_errors if error[1] != 0]
        if errors:
            sys.exit(f"not created: {errors}")
    finally:
        await admin.close()


async def produce(bootstrap, topic, codec):
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type=None if codec == "none" else codec,
        enable_idempotence=True,
        linger_ms=5,
    )
    await producer.start()
    try:
        deliveries = [
            await producer.send(topic, value.encode(), key.encode(), headers=[("codec", codec.encode())])
            for key, value in json.load(sys.stdin)
        ]
        await asyncio.gather(*deliveries)
    finally:
        await producer.stop()


class ShowAssignment(ConsumerRebalanceListener):
    async def on_partitions_revoked(self, revoked):
        print(json.dumps({"assigned": 0}), flush=True)

    async def on_partitions_assigned(self, assigned):
        print(json.dumps({"assigned": len(assigned)}), flush=True)


async def consume(bootstrap, topic, group):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await consumer.start()
    try:
        consumer.subscribe([topic], listener=ShowAssignment())
        while not stopped.is_set():
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                for record in batch:
                    print(json.dumps({
                        "partition": record.partition,
                        "offset": record.offset,
                        "key": record.key.decode(),
                        "value": record.value.decode(),
                        "codec": dict(record.headers)["codec"].decode(),
                    }), flush=True)
    finally:
        await consumer.stop()


bootstrap_servers, action, *rest = sys.argv[1:]
asyncio.run({"create": create, "produce": produce, "consume": consume}[action](bootstrap_servers, *rest))
