/* Prints where librdkafka's partitioners place keys. Against librdkafka 2.12.1, as the crate rdkafka-sys brings it:
 *   cc -o vectors librdkafka.c -I SRC/src SRC/src/librdkafka.a -lz -lm -lpthread && ./vectors < keys.txt > librdkafka.txt
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rdkafka.h"

static const int32_t partitions[] = {1,  2,  3,  4,   5,   6,   7,    8,    9,     10,    12,        16,
                                     17, 31, 50, 64, 100, 127, 256, 1000, 1024, 10007, 65536, 2147483647};
#define N_PARTITIONS (sizeof(partitions) / sizeof(*partitions))

typedef int32_t partitioner_t(const rd_kafka_topic_t *, const void *, size_t, int32_t, void *, void *);
static const struct {
        const char *name;
        partitioner_t *partitioner;
} partitioners[] = {
    {"consistent", rd_kafka_msg_partitioner_consistent}, {"consistent_random", rd_kafka_msg_partitioner_consistent_random},
    {"murmur2", rd_kafka_msg_partitioner_murmur2},       {"murmur2_random", rd_kafka_msg_partitioner_murmur2_random},
    {"fnv1a", rd_kafka_msg_partitioner_fnv1a},           {"fnv1a_random", rd_kafka_msg_partitioner_fnv1a_random},
};

int main(void) {
        static char line[1 << 16];
        rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), NULL, 0);
        rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, "t", NULL);
        printf("# librdkafka %s, by testdata/partitioners/librdkafka.c\npartitions", rd_kafka_version_str());
        for (size_t p = 0; p < N_PARTITIONS; p++)
                printf(" %d", partitions[p]);
        puts("");
        while (fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = 0;
                size_t length = 0, times = 1;
                char *key = NULL;
                if (line[0] == '=') {
                        char *star   = strchr(line, '*');
                        size_t piece = ((star ? (size_t)(star - line) : strlen(line)) - 1) / 2;
                        if (star)
                                times = strtoul(star + 1, NULL, 10);
                        length = piece * times;
                        key    = malloc(length + 1);
                        for (size_t at = 0; at < length; at++) {
                                unsigned byte;
                                sscanf(line + 1 + at % piece * 2, "%2x", &byte);
                                key[at] = (char)byte;
                        }
                }
                for (size_t i = 0; i < sizeof(partitioners) / sizeof(*partitioners); i++) {
                        printf("%s %s", partitioners[i].name, line);
                        for (size_t p = 0; p < N_PARTITIONS; p++) {
                                /* What is drawn at random is told apart by drawing again. */
                                int is_random = 0, rounds = length == 0 ? 40 : 1;
                                int32_t first = partitioners[i].partitioner(topic, key, length, partitions[p], NULL, NULL);
                                for (int round = 1; round < rounds; round++)
                                        is_random |= first != partitioners[i].partitioner(topic, key, length,
                                                                                          partitions[p], NULL, NULL);
                                if (is_random)
                                        printf(" random");
                                else
                                        printf(" %d", first);
                        }
                        puts("");
                }
                free(key);
        }
        return 0;
}
