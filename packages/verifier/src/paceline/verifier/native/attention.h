// Attention of a few rows of one session and the query heads that share one key head, by the products of panels.h.
#pragma once

#include "session_rows.h"

namespace paceline {

// A layer's cache for one key head.
template <typename Weight>
struct PanelPages {
    static constexpr int64_t QUERIES_AT_ONCE = TILE_ROWS;

    Weight* first;         // key page of block 0
    int64_t block_stride;  // items between a block and the next
    int64_t head_size, padded_size;

    static int64_t items(int64_t head_size) { return (head_size + round_up(head_size, PANEL)) * BLOCK_TOKENS; }

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

    void put(int32_t block, int64_t offset, const float* key, const float* value) const {
        Weight* const column = key_column(block, offset);
        for (int64_t k = 0; k < head_size; ++k) column[k * PANEL] = made_of<Weight>(key[k]);
        for (int64_t k = 0; k < head_size; ++k)
            value_row(block, offset, k / PANEL)[place<Weight>(int(k % PANEL))] = made_of<Weight>(value[k]);
    }

    void copy(int32_t from, int64_t from_offset, int32_t to, int64_t to_offset) const {
        const Weight* key_from = key_column(from, from_offset);
        Weight* const key_to = key_column(to, to_offset);
        for (int64_t k = 0; k < head_size; ++k) key_to[k * PANEL] = key_from[k * PANEL];
        for (int64_t panel = 0; panel * PANEL < padded_size; ++panel)
            std::memcpy(value_row(to, to_offset, panel), value_row(from, from_offset, panel), PANEL * sizeof(Weight));
    }
};

template <typename Product>
struct PagesOf;

template <typename Weight>
struct PagesOf<PanelProduct<Weight>> {
    using Type = PanelPages<Weight>;
};

// Fetches the page that comes next.
template <typename Weight>
auto following(const Weight* next) {
    return [next](int64_t, int64_t) {
        return Ahead{reinterpret_cast<const char*>(next), LINES_PER_TERM<Weight> * LINE_BYTES};
    };
}

// Rows [begin, end) of a session. queries: [rows][stride], heads of the group side by side from `queries`. output: of
// all sessions' rows; the group's first element is `output_column`.
template <typename Weight>
void attend(const PanelPages<Weight>& pages, const SessionRows& session, int64_t begin, int64_t end, int64_t group,
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
        shared = std::min(shared, session.num_in_place(row));
        first_seen = std::min(first_seen, session.first_seen(row, window));
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
        const Row of_query = scores.row(query);
        scratch.inverse[query] = soften(session, begin + query / group, window, of_query,
                                        [&](int64_t index, Floats weight) { of_query.store(index, weight); });
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
        const Row of_query = scores.row(query);
        float* const of_sums = sums + query * padded;
        for (int64_t position = shared; position <= session.position(row); ++position) {
            const int64_t slot = session.slot(row, position);
            for (int64_t panel = 0; panel * PANEL < padded; ++panel)
                add_term(of_query[position],
                         pages.value_row(session.blocks[slot / BLOCK_TOKENS], slot % BLOCK_TOKENS, panel),
                         of_sums + panel * PANEL);
        }
        put_head(output.row(session.first + row), output_column + query % group * size, size, of_sums,
                 scratch.inverse[query]);
    }
}

}  // namespace paceline
