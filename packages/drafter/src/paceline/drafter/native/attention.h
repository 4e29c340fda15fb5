// Attention of one layer over a session's cache and the step's own rows, which are in the cache by then.
//
// Keys lie [positions / GROUP][key heads][head size][GROUP], so that a vector of scores is a sum of vectors; values lie
// [positions][key heads][head size].
#pragma once

#include "int8.h"

namespace paceline {

constexpr int GROUP = 16;  // positions whose keys lie side by side

struct AttentionShape {
    int64_t heads, key_heads, head_size;

    int64_t queries_per_key() const { return heads / key_heads; }
    int64_t kv_width() const { return key_heads * head_size; }

    // Where a position's number of a head lies among keys.
    int64_t key_place(int64_t position, int64_t head, int64_t index) const {
        return ((position / GROUP * key_heads + head) * head_size + index) * GROUP + position % GROUP;
    }
};

// Rows of one session that see each other and the cache.
struct SeenRows {
    int64_t count, length;   // length: of the cache without them
    const uint8_t* visible;  // [count][length + count]
    const float *keys, *values;

    int64_t seen() const { return length + count; }
    bool sees(int64_t row, int64_t position) const { return visible[row * seen() + position] != 0; }
};

// Queries [rows][heads][head size], scaled, to what they attend to, of one key head; from and to lie `stride` apart.
class Attention {
public:
    explicit Attention(const AttentionShape& shape) : shape_(shape) {}

    // Makes room for that many positions. May throw, so not in a team's thread.
    void reserve(int64_t seen) { scores_.room(AT_ONCE * round_up(seen, GROUP)); }

    void run(const SeenRows& rows, int64_t key_head, const float* queries, float* attended, int64_t stride) {
        const int64_t each = shape_.queries_per_key(), count = rows.count * each, padded = round_up(rows.seen(), GROUP);
        for (int64_t first = 0; first < count; first += AT_ONCE) {
            const int64_t num = std::min<int64_t>(AT_ONCE, count - first);
            const float* from[AT_ONCE];
            float* to[AT_ONCE];
            for (int64_t index = 0; index < num; ++index) {
                const int64_t row = (first + index) / each, head = key_head * each + (first + index) % each;
                from[index] = queries + row * stride + head * shape_.head_size;
                to[index] = attended + row * stride + head * shape_.head_size;
            }
            for (int64_t index = num; index < AT_ONCE; ++index) from[index] = from[0];
            float* const scores = scores_.room(AT_ONCE * padded);
            score(rows, key_head, from, scores, padded);
            for (int64_t index = 0; index < num; ++index)
                weigh(rows, (first + index) / each, scores + index * padded, padded);
            for (int64_t index = num; index < AT_ONCE; ++index)
                std::fill_n(scores + index * padded, padded, 0.0f);
            gather(rows, key_head, scores, padded, to, num);
        }
    }

private:
    static constexpr int AT_ONCE = 4;  // queries that share what is loaded
    static constexpr int VECTORS_OF_GROUP = GROUP / LANES;

    void score(const SeenRows& rows, int64_t key_head, const float* const* queries, float* scores, int64_t padded) {
        for (int64_t position = 0; position < padded; position += GROUP) {
            const float* key = rows.keys + shape_.key_place(position, key_head, 0);
            Floats sums[AT_ONCE][VECTORS_OF_GROUP] = {};
            for (int64_t index = 0; index < shape_.head_size; ++index, key += GROUP)
                for (int v = 0; v < VECTORS_OF_GROUP; ++v) {
                    const Floats these = load(key + v * LANES);
                    for (int query = 0; query < AT_ONCE; ++query) sums[query][v] += these * queries[query][index];
                }
            for (int query = 0; query < AT_ONCE; ++query)
                for (int v = 0; v < VECTORS_OF_GROUP; ++v)
                    store(scores + query * padded + position + v * LANES, sums[query][v]);
        }
    }

    // Scores to weights, those of what isn't seen 0.
    static void weigh(const SeenRows& rows, int64_t row, float* scores, int64_t padded) {
        const int64_t seen = rows.seen();
        for (int64_t position = 0; position < seen; ++position)
            scores[position] = rows.sees(row, position) ? scores[position] : NEVER;
        std::fill(scores + seen, scores + padded, NEVER);
        Floats most = broadcast(NEVER);
        for (int64_t position = 0; position < padded; position += LANES) {
            const Floats value = load(scores + position);
            most = value > most ? value : most;
        }
        const Floats top = broadcast(greatest(most));
        Floats sum{};
        for (int64_t position = 0; position < padded; position += LANES) {
            const Floats weight = exponential(load(scores + position) - top);
            store(scores + position, weight);
            sum += weight;
        }
        const Floats scale = broadcast(1.0f / total(sum));
        for (int64_t position = 0; position < padded; position += LANES)
            store(scores + position, load(scores + position) * scale);
    }

    void gather(const SeenRows& rows, int64_t key_head, const float* weights, int64_t padded, float* const* to,
                int64_t num) const {
        const int64_t stride = shape_.kv_width();
        const float* const values = rows.values + key_head * shape_.head_size;
        for (int64_t index = 0; index < shape_.head_size; index += LANES) {
            Floats sums[AT_ONCE] = {};
            for (int64_t position = 0; position < rows.seen(); ++position) {
                const Floats value = load(values + position * stride + index);
                for (int query = 0; query < AT_ONCE; ++query) sums[query] += value * weights[query * padded + position];
            }
            for (int64_t query = 0; query < num; ++query) store(to[query] + index, sums[query]);
        }
    }

    const AttentionShape shape_;
    Buffer scores_;
};

}  // namespace paceline
