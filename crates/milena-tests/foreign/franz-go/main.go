// franz-go, for run.py.
//
// BOOTSTRAP create TOPIC N_PARTITIONS | produce TOPIC CODEC (stdin: [[key, value], ...]) | consume TOPIC GROUP, until
// SIGTERM. Consuming prints {"assigned": N} and {"partition", "offset", "key", "value", "codec"}, one object a line.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bootstrap, action, topic, argument string) error {
	switch action {
	case "create":
		return create(bootstrap, topic, argument)
	case "produce":
		return produce(bootstrap, topic, argument)
	case "consume":
		return consume(bootstrap, topic, argument)
	}
	return fmt.Errorf("no action %q", action)
}

func create(bootstrap, topic, partitions string) error {
	n, err := strconv.Atoi(partitions)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	created, err := kadm.NewClient(client).CreateTopic(ctx, int32(n), -1, nil, topic)
	if err != nil {
		return err
	}
	return created.Err
}

func codec(name string) kgo.CompressionCodec {
	switch name {
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	}
	return kgo.NoCompression()
}

func produce(bootstrap, topic, name string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ProducerBatchCompression(codec(name)))
	if err != nil {
		return err
	}
	defer client.Close()
	var pairs [][2]string
	if err := json.NewDecoder(os.Stdin).Decode(&pairs); err != nil {
		return err
	}
	var records []*kgo.Record
	for _, pair := range pairs {
		headers := []kgo.RecordHeader{{Key: "codec", Value: []byte(name)}}
		records = append(records, &kgo.Record{Topic: topic, Key: []byte(pair[0]), Value: []byte(pair[1]), Headers: headers})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return client.ProduceSync(ctx, records...).FirstErr()
}

type shown struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Key       string `json:"key"`
	Value     string `json:"value"`
	Codec     string `json:"codec"`
}

func consume(bootstrap, topic, group string) error {
	var assigned atomic.Int64
	show := func(delta int) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			fmt.Printf("{\"assigned\": %d}\n", assigned.Add(int64(delta*len(partitions[topic]))))
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumeTopics(topic),
		kgo.ConsumerGroup(group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(show(1)),
		kgo.OnPartitionsRevoked(show(-1)),
		kgo.OnPartitionsLost(show(-1)),
	)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	out := json.NewEncoder(os.Stdout)
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(_ string, partition int32, err error) {
			if ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, partition, err)
			}
		})
		fetches.EachRecord(func(record *kgo.Record) {
			line := shown{record.Partition, record.Offset, string(record.Key), string(record.Value), ""}
			for _, header := range record.Headers {
				line.Codec = string(header.Value)
			}
			if err := out.Encode(line); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
	}
	if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
		return err
	}
	client.Close()
	return nil
}
