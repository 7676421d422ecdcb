// Prints where Sarama's partitioners place keys. In a module that requires github.com/IBM/sarama v1.61.1:
//
//	go run sarama.go < keys.txt > sarama.txt
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
)

var partitions = []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 17, 31, 50, 64, 100, 127, 256, 1000, 1024, 10007, 65536, 2147483647}

func key(line string) sarama.Encoder {
	if line == "-" {
		return nil
	}
	piece, times, repeated := strings.Cut(line[1:], "*")
	bytesOf, err := hex.DecodeString(piece)
	if err != nil {
		panic(err)
	}
	if repeated {
		count, _ := strconv.Atoi(times)
		bytesOf = bytes.Repeat(bytesOf, count)
	}
	return sarama.ByteEncoder(bytesOf)
}

func main() {
	fmt.Println("# Sarama 1.61.1, by testdata/partitioners/sarama.go")
	fmt.Println("partitions", strings.Trim(fmt.Sprint(partitions), "[]"))
	constructors := []struct {
		name string
		make sarama.PartitionerConstructor
	}{
		{"sarama_hash", sarama.NewHashPartitioner},
		{"sarama_reference_hash", sarama.NewReferenceHashPartitioner},
		{"sarama_consistent_crc", sarama.NewConsistentCRCHashPartitioner},
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		for _, constructor := range constructors {
			fmt.Print(constructor.name, " ", lines.Text())
			for _, count := range partitions {
				drawn := map[int32]bool{}
				var placed int32
				// What is drawn at random is told apart by drawing again.
				for round := 0; round < 40; round++ {
					partitioner := constructor.make("t")
					message := &sarama.ProducerMessage{Topic: "t", Key: key(lines.Text())}
					partition, err := partitioner.Partition(message, count)
					if err != nil {
						panic(err)
					}
					placed = partition
					drawn[partition] = true
					if message.Key != nil && message.Key.Length() > 0 {
						break
					}
				}
				if len(drawn) > 1 || (count == 1 && lines.Text() == "-") {
					fmt.Print(" random")
				} else {
					fmt.Print(" ", placed)
				}
			}
			fmt.Println()
		}
	}
}
