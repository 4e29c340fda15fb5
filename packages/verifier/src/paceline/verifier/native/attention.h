// Attention of a few rows of one session and the query heads that share one key head.
//
// A row sees the committed tokens and its ancestors among the step's rows. Scores of ancestors are moved to where they
// would be if the ancestors were committed; from then on nothing knows of the tree: maximum, exponentials, their sum
// and the weighted values run over positions 0, 1, 2, … as they would for the same row decoded alone.
#pragma once

#include "decoder.h"

namespace paceline {

// A layer's cache for one key head: where blocks begin.
template <typename Weight>
struct Pages {
    Weight* first;          // key page of block 0
    int64_t block_stride;   // items between a block and the next
    int64_t head_size, padded_size;

    // [HALVES][head_size][PANEL]
    Weight* keys(int32_t block) const { return first + block * block_stride; }
    // [padded_size / PANEL][BLOCK_TOKENS][PANEL]
    Weight* values(int32_t block) const { return keys(block) + head_size * BLOCK_TOKENS; }

    Weight* key_column(int32_t block, int64_t offset) const {
        return keys(block) + offset / PANEL * head_size * PANEL + place<Weight>(int(offset % PANEL));
    }
    Weight* value_row(int32_t block, int64_t offset, int64_t panel) const {
        return values(block) + (panel * BLOCK_TOKENS + offset) * PANEL;
    }
};

// One session's part of a step.
struct SessionRows {
    int64_t first, count, length;  // its first row in the step, how many, committed tokens
    const int32_t* blocks;
    std::vector<std::vector<int32_t>> ancestors;  // per row, ascending, itself last
    std::vector<int32_t> in_place;  // per row, how many of the first ones lie where they would if they were committed

    int64_t position(int64_t row) const { return length + int64_t(ancestors[row].size()) - 1; }
};

constexpr int64_t FEED_LINES = 24;  // of weights, for each page of keys or values: what memory brings meanwhile

struct Scratch {
    Buffer queries, scores, sums;
    std::vector<float> inverse;
};

// Fetches the page that comes next.
template <typename Weight>
auto following(const Weight* next) {
    return [next](int64_t, int64_t) {
        return Ahead{reinterpret_cast<const char*>(next), LINES_PER_TERM<Weight> * LINE_BYTES};
    };
}

// weights = exp(scores - greatest), 0 outside [low, count); returns 1 / their sum.
inline float soften(const Row& scores, int64_t low, int64_t count) {
    const int64_t whole = round_up(count, LANES);
    for (int64_t index = 0; index < low; ++index) scores[index] = NEVER;
    for (int64_t index = count; index < whole; ++index) scores[index] = NEVER;
    Floats most = broadcast(NEVER);
    for (int64_t index = 0; index < whole; index += LANES) {
        const Floats value = load(scores.group(index));
        most = value > most ? value : most;
    }
    const Floats greatest_score = broadcast(greatest(most));
    Floats sums = Floats{};
    for (int64_t index = 0; index < whole; index += LANES) {
        const Floats weight = exponential(load(scores.group(index)) - greatest_score);
        store(scores.group(index), weight);
        sums += weight;
    }
    return 1.0f / total(sums);
}

// queries: [rows][stride], heads of the group side by side from `queries`. output: of the session's rows, whose first
// is row `output_row` there; the group's first element is `output_column`. Rows [begin, end).
template <typename Weight>
void attend(const Pages<Weight>& pages, const SessionRows& session, int64_t begin, int64_t end, int64_t group,
            const float* queries, int64_t stride, float scale, int64_t window, const Rows& output,
            int64_t output_column, Scratch& scratch, Feed& feed) {
    const int64_t size = pages.head_size, count = (end - begin) * group;
    const int64_t slots = session.length + end;  // ancestors come before their descendants
    const int64_t blocks = (slots + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    const int64_t width = blocks * BLOCK_TOKENS, padded = pages.padded_size;
    const Rows scaled{scratch.queries.room(count * padded), count, padded};
    const Rows scores{scratch.scores.room(count * width), count, width};
    float* const sums = scratch.sums.room(count * padded);
    scratch.inverse.resize(count);

    int64_t shared = slots;  // leading positions that every row here sees where they lie
    int64_t first_seen = slots;
    for (int64_t row = begin; row < end; ++row) {
        shared = std::min(shared, session.length + session.in_place[row]);
        first_seen = std::min(first_seen, window ? std::max<int64_t>(0, session.position(row) - window + 1) : 0);
        for (int64_t head = 0; head < group; ++head) {
            const float* from = queries + row * stride + head * size;
            const Row to = scaled.row((row - begin) * group + head);
            for (int64_t index = 0; index < size; ++index) to[index] = from[index] * scale;
        }
    }
    const int64_t first_block = first_seen / BLOCK_TOKENS;
    for (int64_t block = first_block; block < blocks; ++block)
        for (int64_t half = 0; half < HALVES; ++half) {
            const Weight* panel = pages.keys(session.blocks[block]) + half * size * PANEL;
            multiply(scaled, 0, panel, size, RowsOutput{scores.data, width, block * BLOCK_TOKENS + half * PANEL},
                     Into::STORE, following(panel + size * PANEL));
            feed.fetch(FEED_LINES);
        }
    for (int64_t query = 0; query < count; ++query) {
        const int64_t row = begin + query / group;
        const std::vector<int32_t>& ancestors = session.ancestors[row];
        const Row of_query = scores.row(query);
        const int64_t positions = session.position(row) + 1;
        for (int64_t index = session.in_place[row]; index < int64_t(ancestors.size()); ++index)
            of_query[session.length + index] = of_query[session.length + ancestors[index]];
        const int64_t low = window ? std::max<int64_t>(0, positions - window) : 0;
        scratch.inverse[query] = soften(of_query, low, positions);
    }
    for (int64_t block = first_block; block * BLOCK_TOKENS < shared; ++block) {
        const int64_t inner = std::min<int64_t>(BLOCK_TOKENS, shared - block * BLOCK_TOKENS);
        for (int64_t panel = 0; panel * PANEL < padded; ++panel) {
            const Weight* values = pages.value_row(session.blocks[block], 0, panel);
            multiply(scores, block * BLOCK_TOKENS, values, inner, PlainOutput{sums + panel * PANEL, padded},
                     block == first_block ? Into::STORE : Into::CONTINUE, following(values + BLOCK_TOKENS * PANEL));
            feed.fetch(FEED_LINES);
        }
    }
    for (int64_t query = 0; query < count; ++query) {
        const int64_t row = begin + query / group;
        const std::vector<int32_t>& ancestors = session.ancestors[row];
        const Row of_query = scores.row(query);
        float* const of_sums = sums + query * padded;
        for (int64_t index = shared - session.length; index < int64_t(ancestors.size()); ++index) {
            const int64_t slot = session.length + ancestors[index];
            for (int64_t panel = 0; panel * PANEL < padded; ++panel)
                add_term(of_query[session.length + index],
                         pages.value_row(session.blocks[slot / BLOCK_TOKENS], slot % BLOCK_TOKENS, panel),
                         of_sums + panel * PANEL);
        }
        const Row to = output.row(session.first + row);
        const int64_t column = output_column + query % group * size;
        for (int64_t index = 0; index < size; ++index)
            to[column + index] = of_sums[index] * scratch.inverse[query];
    }
}

}  // namespace paceline
