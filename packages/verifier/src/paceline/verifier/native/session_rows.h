// One session's part of a step, and what both ways to attend to it (attention.h, tile_attention.h) have in common.
//
// A row sees the committed tokens and its ancestors among the step's rows. Scores of ancestors are moved to where they
// would be if the ancestors were committed; from then on nothing knows of the tree: maximum, exponentials, their sum
// and the weighted values run over positions 0, 1, 2, … as they would for the same row decoded alone.
#pragma once

#include "decoder.h"

namespace paceline {

struct SessionRows {
    int64_t first, count, length;  // its first row in the step, how many, committed tokens
    const int32_t* blocks;
    std::vector<std::vector<int32_t>> ancestors;  // per row, ascending, itself last
    std::vector<int32_t> in_place;  // per row, how many of the first ones lie where they would if they were committed

    int64_t position(int64_t row) const { return length + int64_t(ancestors[row].size()) - 1; }

    // The first position that a row sees through a window of so many positions; 0 is no window.
    int64_t first_seen(int64_t row, int64_t window) const {
        return window ? std::max<int64_t>(0, position(row) - window + 1) : 0;
    }

    // Leading positions that a row sees where they lie.
    int64_t num_in_place(int64_t row) const { return length + in_place[row]; }

    bool all_in_place(int64_t row) const { return in_place[row] == int64_t(ancestors[row].size()); }

    // Where the token lies that a row sees at a position.
    int64_t slot(int64_t row, int64_t position) const {
        return position < length ? position : length + ancestors[row][position - length];
    }
};

constexpr int64_t FEED_LINES = 24;  // of weights, between two parts of attention: what memory brings meanwhile

// A thread's own memory.
struct Scratch {
    Buffer queries, scores, weights, sums;
    std::vector<float> inverse;
    int64_t shape = 0;  // what `Product::prepare` made of this thread
};

// A row's scores, which lie by slot, become weights by position: exp(score - greatest), 0 for what the row doesn't see.
// `put(position, weights)` is called for LANES positions at a time, from 0 on. Returns 1 / their sum.
template <typename Put>
float soften(const SessionRows& session, int64_t row, int64_t window, const Row& scores, const Put& put) {
    const std::vector<int32_t>& ancestors = session.ancestors[row];
    for (int64_t index = session.in_place[row]; index < int64_t(ancestors.size()); ++index)
        scores[session.length + index] = scores[session.length + ancestors[index]];
    const int64_t low = session.first_seen(row, window), count = session.position(row) + 1;
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
        put(index, weight);
        sums += weight;
    }
    return 1.0f / total(sums);
}

// One head's share of a row: values * factor.
template <typename Row>
void put_head(const Row& to, int64_t column, int64_t size, const float* values, float factor) {
    if (column % LANES == 0 && size % LANES == 0) {
        for (int64_t index = 0; index < size; index += LANES) to.store(column + index, load(values + index) * factor);
    } else {
        for (int64_t index = 0; index < size; ++index) to.set(column + index, values[index] * factor);
    }
}

}  // namespace paceline
