//! Batches that we write, judged by Kafka's own DumpLogSegments: Java decodes every record.

mod one_node {
    use milena_protocol::compress::Compression;
    use milena_protocol::record::BatchEncoder;
    use milena_protocol::record::RecordHeader;
    use milena_tests::kafka_tools::Tools;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    const N_RECORDS: usize = 500;

    #[tokio::test]
    #[ignore = "needs Kafka's Java tools: cargo xtask test"]
    async fn java_tools_judge_our_batches_valid_in_every_codec() {
        let tools = Tools::from_env().unwrap();
        let mut log = Vec::new();
        for (turn, codec) in CODECS.into_iter().enumerate() {
            let mut batch = BatchEncoder::new(Vec::new(), 1_700_000_000_000);
            for record in 0..N_RECORDS {
                let key = format!("key-{record}");
                let value = format!("value-{record}-").repeat(record % 30);
                let headers =
                    [RecordHeader { key: "trace", value: Some(b"abc") }, RecordHeader { key: "trace", value: None }];
                // Null, empty and filled are three things.
                let key = (record % 3 != 0).then_some(key.as_bytes());
                let value = (record % 7 != 0).then_some(value.as_bytes());
                batch.append(1_700_000_000_000 + record as i64, key, value, &headers[..record % 3]).unwrap();
            }
            let mut sealed = batch.seal(codec, None).unwrap();
            assert_eq!(sealed.compression(), codec, "these records compress");
            sealed.stamp(4711, 3, (turn * N_RECORDS) as i32, false);
            // A broker would number them so; the offset is no part of what the CRC covers.
            let mut bytes = sealed.to_bytes().to_vec();
            bytes[..8].copy_from_slice(&((turn * N_RECORDS) as i64).to_be_bytes());
            log.extend(bytes);
        }

        let dumped = tools.dump_log(&log).await.unwrap();

        assert_eq!(dumped.len(), CODECS.len());
        for (turn, (batch, codec)) in dumped.iter().zip(CODECS).enumerate() {
            assert!(batch.is_valid(), "{}", batch.line);
            assert_eq!(batch.field("compresscodec"), Some(codec.to_string().as_str()));
            assert_eq!(batch.field("producerId"), Some("4711"));
            assert_eq!(batch.field("producerEpoch"), Some("3"));
            assert_eq!(batch.field("baseSequence"), Some((turn * N_RECORDS).to_string().as_str()));
            assert_eq!(batch.records.len(), N_RECORDS);
            for (record, line) in batch.records.iter().enumerate() {
                let offset = turn * N_RECORDS + record;
                let sizes = (
                    if record % 3 == 0 { -1 } else { format!("key-{record}").len() as i64 },
                    if record % 7 == 0 { -1 } else { (format!("value-{record}-").len() * (record % 30)) as i64 },
                );
                let names = ["[]", "[trace]", "[trace,trace]"][record % 3];
                let start = format!(
                    "offset: {offset} CreateTime: {} keySize: {} valueSize: {} sequence: {offset} headerKeys: {names}",
                    1_700_000_000_000 + record as i64,
                    sizes.0,
                    sizes.1,
                );
                assert!(line.starts_with(&start), "{line}\nshould start with\n{start}");
            }
        }
    }

    #[tokio::test]
    #[ignore = "needs Kafka's Java tools: cargo xtask test"]
    async fn java_tools_see_a_flipped_bit() {
        let mut batch = BatchEncoder::new(Vec::new(), 0);
        batch.append(0, Some(b"key"), Some(b"value"), &[]).unwrap();
        let mut bytes = batch.seal(Compression::None, None).unwrap().to_bytes().to_vec();
        let last_of_value = bytes.len() - 2;
        bytes[last_of_value] ^= 1;
        let dumped = Tools::from_env().unwrap().dump_log(&bytes).await.unwrap();
        assert!(!dumped[0].is_valid());
    }
}
