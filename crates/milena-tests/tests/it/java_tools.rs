//! Kafka's own Java clients on the other side of ours.

mod one_node {
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use milena_client::TopicPartition;
    use milena_client::consumer::Assignor;
    use milena_client::consumer::Consumer;
    use milena_client::consumer::ConsumerEvent;
    use milena_client::consumer::Isolation;
    use milena_client::consumer::Start;
    use milena_client::producer::Compression;
    use milena_client::producer::Producer;
    use milena_client::producer::Record;
    use milena_client::producer::RecordHeader;
    use milena_tests::cluster::Cluster;
    use milena_tests::kafka_tools::Tools;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use crate::client::CODECS;
    use crate::client::Member;
    use crate::client::TIME_LIMIT;
    use crate::client::client_and_topic;
    use crate::client::read_all;

    const N_PARTITIONS: i32 = 3;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs a real Kafka and its Java tools: cargo xtask test"]
    async fn java_reads_what_we_wrote() {
        let (cluster, tools) = (Cluster::one_node().unwrap(), Tools::from_env().unwrap());
        let presets = [
            ("auto", Compression::Auto),
            ("throughput", Compression::Throughput),
            ("ratio", Compression::Ratio),
            ("size-table", Compression::SizeTable),
        ];
        for (name, compression) in CODECS.into_iter().chain(presets) {
            let (client, topic) = client_and_topic(&cluster, name, N_PARTITIONS).await;
            let producer = Producer::builder(&client).compression(compression).build().unwrap();
            let headers = [RecordHeader { key: "codec", value: Some(name.as_bytes()) }];
            let mut written = BTreeMap::new();
            let mut sent = Vec::new();
            for i in 0..300 {
                let (key, value) = (format!("key-{}", i % 20), format!("{i} ").repeat(i % 50 + 1));
                let record = Record::to(&topic).key(&key).value(&value).headers(&headers).timestamp(1000 + i as i64);
                let delivery = producer.send(record).await.unwrap();
                sent.push((delivery, (1000 + i as i64, key, value)));
            }
            for (delivery, record) in sent {
                let metadata = delivery.await.unwrap();
                written.insert((metadata.partition(), metadata.offset().unwrap()), record);
            }
            let metrics = producer.metrics();
            assert!(name == "none" || metrics.bytes_compressed * 2 < metrics.bytes_raw, "{name}: {metrics:?}");
            let read = tools.consume(cluster.bootstrap(), &topic, written.len()).await.unwrap();
            for record in &read {
                assert_eq!(record.headers, format!("codec:{name}"));
            }
            let read = read
                .into_iter()
                .map(|record| ((record.partition, record.offset), (record.timestamp, record.key, record.value)));
            assert_eq!(read.collect::<BTreeMap<_, _>>(), written, "{name}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs a real Kafka and its Java tools: cargo xtask test"]
    async fn we_read_what_java_wrote_and_put_keys_where_it_does() {
        let (cluster, tools) = (Cluster::one_node().unwrap(), Tools::from_env().unwrap());
        for (name, compression) in CODECS {
            let (client, topic) = client_and_topic(&cluster, name, N_PARTITIONS).await;
            let records: Vec<_> =
                (0..300).map(|i| (format!("key-{}", i % 100), format!("{i} ").repeat(i % 50 + 1))).collect();
            tools.produce(cluster.bootstrap(), &topic, name, &records).await.unwrap();
            let read = read_all(&client, &topic, N_PARTITIONS).await;
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            let mut found: Vec<_> = read.values().map(|record| (text(record.key()), text(record.value()))).collect();
            let mut expected = records.clone();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{name}");

            let partition_of: BTreeMap<_, _> =
                read.values().map(|record| (text(record.key()), record.partition)).collect();
            let producer = Producer::builder(&client).compression(compression).build().unwrap();
            for (key, partition) in partition_of {
                let sent = producer.send(Record::to(&topic).key(&key)).await.unwrap().await.unwrap();
                assert_eq!(sent.partition(), partition, "{key}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs a real Kafka and its Java tools: cargo xtask test"]
    async fn of_what_java_copied_in_transactions_we_read_what_was_committed() {
        let (cluster, tools) = (Cluster::one_node().unwrap(), Tools::from_env().unwrap());
        let (client, input) = client_and_topic(&cluster, "copied", 1).await;
        let (_, output) = client_and_topic(&cluster, "copies", 1).await;
        let producer = Producer::builder(&client).build().unwrap();
        let numbers: Vec<String> = (0..400).map(|i| i.to_string()).collect();
        for number in &numbers {
            drop(producer.send(Record::to(&input).value(number)).await.unwrap());
        }
        timeout(TIME_LIMIT, producer.flush()).await.unwrap();
        let group = cluster.unique("copier");
        tools.copy_in_transactions(cluster.bootstrap(), (&input, 0), &output, &group).await.unwrap();
        let end = i64::try_from(numbers.len()).unwrap();
        let mut values = BTreeMap::new();
        for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
            let consumer = Consumer::builder(&client).isolation(isolation).build().unwrap();
            let partition = TopicPartition::new(&*output, 0);
            let log_end = consumer.end_offsets([partition.clone()]).await.unwrap()[&partition];
            assert!(log_end > end, "{log_end}: markers have offsets");
            consumer.assign([(&*output, 0, Start::Beginning)]).unwrap();
            let mut seen = Vec::new();
            let read = async {
                while consumer.position(&partition).is_none_or(|position| position < log_end) {
                    // The last thing in the log is a marker, of which nothing is shown.
                    let Ok(event) = timeout(Duration::from_secs(1), consumer.next()).await else { continue };
                    let ConsumerEvent::Records(set) = event.unwrap() else { continue };
                    seen.extend(set.iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
                }
            };
            timeout(TIME_LIMIT, read).await.expect("the position gets to the end");
            values.insert(isolation == Isolation::ReadCommitted, seen);
        }
        assert_eq!(values[&true], numbers, "each of them once, in order");
        // One in three of forty transactions: that none was aborted happens once in ten million runs.
        assert!(values[&false].len() > numbers.len(), "something was aborted");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs a real Kafka and its Java tools: cargo xtask test"]
    async fn java_and_we_share_a_group_under_each_assignor() {
        let (cluster, tools) = (Cluster::one_node().unwrap(), Tools::from_env().unwrap());
        for (assignor, class) in [
            (Assignor::Range, "RangeAssignor"),
            (Assignor::RoundRobin, "RoundRobinAssignor"),
            (Assignor::Sticky, "StickyAssignor"),
            (Assignor::CooperativeSticky, "CooperativeStickyAssignor"),
        ] {
            let (client, topic) = client_and_topic(&cluster, "mixed", 4).await;
            let group = cluster.unique("mixed");
            let (seen, mut seen_by_us) = mpsc::channel(10_000);
            let ours = Member::join(&client, &topic, &group, assignor, seen);
            let class = format!("org.apache.kafka.clients.consumer.{class}");
            let mut java = tools.join(cluster.bootstrap(), &topic, &group, &class).unwrap();
            // Under the cooperative assignor it is given nothing at first, and its share when we have given that up.
            while java.wait_for("partitions_assigned").await.unwrap().partitions.is_empty() {}

            let producer = Producer::builder(&client).build().unwrap();
            let mut expected = BTreeSet::new();
            for i in 0..200 {
                let value = i.to_string();
                let record = Record::to(&topic).value(&value).partition(i % 4);
                let metadata = producer.send(record).await.unwrap().await.unwrap();
                expected.insert((metadata.partition(), metadata.offset().unwrap()));
            }
            let mut handled = BTreeSet::new();
            let mut n_java = 0;
            while handled.len() < expected.len() {
                let place = tokio::select! {
                    record = timeout(TIME_LIMIT, seen_by_us.recv()) => {
                        let record = record.expect("records come").unwrap();
                        (record.partition, record.offset)
                    }
                    event = java.wait_for("record_data") => {
                        let event = event.unwrap();
                        n_java += 1;
                        (event.partition.unwrap(), event.offset.unwrap())
                    }
                };
                assert!(handled.insert(place), "{assignor}: {place:?} was handled twice");
            }
            assert_eq!(handled, expected);
            assert_eq!(n_java, 100, "{assignor}: half of the partitions each");
            java.leave().await.unwrap();
            ours.leave().await;
        }
    }

    #[tokio::test]
    #[ignore = "needs Kafka's Java tools: cargo xtask test"]
    async fn java_would_see_a_flipped_bit() {
        use milena_protocol::compress::Compression;
        use milena_protocol::record::BatchEncoder;

        let mut batch = BatchEncoder::new(Vec::new(), 0);
        batch.append(0, Some(b"key"), Some(b"value"), &[]).unwrap();
        let mut bytes = batch.seal(Compression::None, None).unwrap().to_bytes().to_vec();
        let last_of_value = bytes.len() - 2;
        bytes[last_of_value] ^= 1;
        let dumped = Tools::from_env().unwrap().dump_log(&bytes).await.unwrap();
        assert!(!dumped[0].is_valid());
    }
}
