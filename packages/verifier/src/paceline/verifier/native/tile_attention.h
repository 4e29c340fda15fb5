// Attention by the products of tiles.h.
//
// A sum over positions takes DEPTH of them at a time. So that it is the same sum whatever a row's ancestors lie between,
// pieces of which a row doesn't see every position where it lies are put together for it first, as if they were
// committed, with zeros for what comes after it.
#pragma once

#include "session_rows.h"
#include "tiles.h"

#ifdef PACELINE_TILES

namespace paceline {

// A layer's cache for one key head. A page of keys: [HALVES] panels, positions as columns; one of values: [padded_size /
// PANEL] panels, positions as inner index.
struct TilePages {
    static constexpr int64_t QUERIES_AT_ONCE = 2 * SIDE;
    static constexpr int64_t PIECES = BLOCK_TOKENS / DEPTH;  // of a block's positions

    bfloat16* first;       // key page of block 0
    int64_t block_stride;  // items between a block and the next
    int64_t head_size, padded_size;

    static int64_t items(int64_t head_size) {
        return (TileProduct::padded(head_size) + round_up(head_size, PANEL)) * BLOCK_TOKENS;
    }

    bfloat16* keys(int32_t block, int64_t half) const {
        return first + block * block_stride + half * TileProduct::padded(head_size) * PANEL;
    }

    // Of a piece of a block's positions and a panel of the head's elements.
    bfloat16* values(int32_t block, int64_t piece, int64_t panel) const {
        return keys(block, HALVES) + (panel * PIECES + piece) * PIECE_ITEMS;
    }

    void put(int32_t block, int64_t offset, const float* key, const float* value) const {
        const int column = int(offset % PANEL);
        const int64_t piece = offset / DEPTH, within = offset % DEPTH, shift = within % 2 * 16;
        bfloat16* const of_keys = keys(block, offset / PANEL);
        for (int64_t k = 0; k < head_size; k += SIDE) {
            alignas(64) float some[SIDE] = {};  // a head's last elements may be fewer
            const int64_t count = std::min<int64_t>(SIDE, head_size - k);
            std::copy_n(key + k, count, some);
            uint32_t pairs[SIDE / 2];
            const __m256i narrowed = (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(some));
            std::memcpy(pairs, &narrowed, sizeof pairs);
            for (int64_t pair = 0; pair < (count + 1) / 2; ++pair)
                std::memcpy(of_keys + TileProduct::place(k + 2 * pair, column), &pairs[pair], sizeof pairs[pair]);

            std::copy_n(value + k, count, some);
            const __m512i words =
                _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(some)));
            bfloat16* const to = values(block, piece, k / PANEL) + TileProduct::place(within - within % 2, int(k % PANEL));
            const Words other = load_words(to) & (0xffff0000u >> shift);  // of the position that it is paired with
            store_words(to, other | (Words)words << uint32_t(shift));
        }
    }

    void copy(int32_t from, int64_t from_offset, int32_t to, int64_t to_offset) const {
        const bfloat16* key_from = keys(from, from_offset / PANEL);
        bfloat16* const key_to = keys(to, to_offset / PANEL);
        for (int64_t k = 0; k < head_size; ++k)
            key_to[TileProduct::place(k, int(to_offset % PANEL))] =
                key_from[TileProduct::place(k, int(from_offset % PANEL))];
        for (int64_t k = 0; k < head_size; ++k) {
            const int column = int(k % PANEL);
            values(to, to_offset / DEPTH, k / PANEL)[TileProduct::place(to_offset % DEPTH, column)] =
                values(from, from_offset / DEPTH, k / PANEL)[TileProduct::place(from_offset % DEPTH, column)];
        }
    }

    // A pair of positions' values: what is at one slot below, at the other above; -1 is nothing. To [halves][SIDE] words,
    // TILE_ITEMS apart.
    void pair(const int32_t* blocks, int64_t low_slot, int64_t high_slot, int64_t panel, bfloat16* to) const {
        for (int64_t half = 0; half < 2; ++half) {
            const Words words = low_half(blocks, low_slot, panel, half) | low_half(blocks, high_slot, panel, half) << 16;
            store_words(to + half * TILE_ITEMS, words);
        }
    }

private:
    static Words load_words(const bfloat16* from) {
        Words words;
        std::memcpy(&words, from, sizeof words);
        return words;
    }

    static void store_words(bfloat16* to, Words words) { std::memcpy(to, &words, sizeof words); }

    // One slot's values in the low half of each word.
    Words low_half(const int32_t* blocks, int64_t slot, int64_t panel, int64_t half) const {
        if (slot < 0) return Words{};
        const int64_t offset = slot % BLOCK_TOKENS;
        const bfloat16* from = values(blocks[slot / BLOCK_TOKENS], offset / DEPTH, panel) + half * TILE_ITEMS;
        const Words words = load_words(from + offset % DEPTH / 2 * DEPTH);
        return slot % 2 ? words >> 16 : words & 0xffffu;
    }
};

template <>
struct PagesOf<TileProduct> {
    using Type = TilePages;
};

// A piece of values as a row sees it.
inline void gather(const TilePages& pages, const SessionRows& session, int64_t row, int64_t piece, int64_t panel,
                   bfloat16* to) {
    const int64_t last = session.position(row);
    for (int64_t position = piece * DEPTH; position < (piece + 1) * DEPTH; position += 2, to += DEPTH)
        pages.pair(session.blocks, position <= last ? session.slot(row, position) : -1,
                   position < last ? session.slot(row, position + 1) : -1, panel, to);
}

// One piece more for the sums [rows][stride] of the rows [first, last).
inline void go_on(const SplitRows& weights, int64_t piece, const bfloat16* gathered, int64_t first, int64_t last,
                  float* sums, int64_t stride) {
    alignas(64) float own[SIDE * PANEL];  // the tile's other rows see something else: what becomes of theirs is left
    for (int64_t tile = first / SIDE; tile * SIDE < last; ++tile) {
        const int64_t from = std::max(first, tile * SIDE), to = std::min(last, (tile + 1) * SIDE);
        for (int64_t row = from; row < to; ++row)
            std::memcpy(own + row % SIDE * PANEL, sums + row * stride, PANEL * sizeof(float));
        TileProduct::go_on(weights.tile(tile) + piece * PIECE_ITEMS, gathered, own, PANEL);
        for (int64_t row = from; row < to; ++row)
            std::memcpy(sums + row * stride, own + row % SIDE * PANEL, PANEL * sizeof(float));
    }
}

// As in attention.h.
inline void attend(const TilePages& pages, const SessionRows& session, int64_t begin, int64_t end, int64_t group,
                   const float* queries, int64_t stride, float scale, int64_t window, const SplitRows& output,
                   int64_t output_column, Scratch& scratch, Feed& feed) {
    const int64_t size = pages.head_size, count = (end - begin) * group, depth = TileProduct::padded(size);
    const int64_t slots = session.length + end;  // ancestors come before their descendants
    const int64_t width = round_up(slots, BLOCK_TOKENS), line = width + LANES, padded = pages.padded_size, room = round_up(count, SIDE);
    const SplitRows scaled = SplitRows::in(scratch.queries.room(SplitRows::room(count, depth)), count, depth);
    const SplitRows weights = SplitRows::in(scratch.weights.room(SplitRows::room(count, width)), count, width);
    float* const scores = scratch.scores.room(room * line);  // a row every 4 KiB would use one corner of the cache
    float* const sums = scratch.sums.room(room * padded);
    scratch.inverse.resize(count);
    TileProduct::prepare(count, scratch.shape);

    int64_t shared = slots, first_seen = slots;
    for (int64_t row = begin; row < end; ++row) {
        shared = std::min(shared, session.num_in_place(row));
        first_seen = std::min(first_seen, session.first_seen(row, window));
        for (int64_t head = 0; head < group; ++head)
            put_head(scaled.row((row - begin) * group + head), 0, size, queries + row * stride + head * size, scale);
    }
    const int64_t first_block = first_seen / BLOCK_TOKENS;
    for (int64_t panel = first_block * HALVES; panel * PANEL < width; ++panel) {
        const auto at = [&](int64_t piece) {
            const int64_t next = piece < depth / DEPTH ? panel : std::min(panel + 1, width / PANEL - 1);
            return pages.keys(session.blocks[next / HALVES], next % HALVES) + piece % (depth / DEPTH) * PIECE_ITEMS;
        };
        for (int64_t tile = 0; tile < scaled.tiles(); tile += 2)
            TileProduct::sum(scaled, tile, at, 0, depth / DEPTH, scores + tile * SIDE * line + panel * PANEL, line,
                             TileProduct::following(at));
    }

    const int64_t first_piece = first_block * TilePages::PIECES, common = std::max(first_piece, shared / DEPTH);
    for (int64_t query = 0; query < count; ++query) {
        const int64_t row = begin + query / group;
        const SplitRows::Row to = weights.row(query);
        scratch.inverse[query] =
            soften(session, row, window, Row{scores + query * line, LANES},
                   [&to](int64_t index, Floats weight) { to.store(index, weight); });
        const int64_t end_of_row = round_up(session.position(row) + 1, LANES);
        if (end_of_row % DEPTH) to.store(end_of_row, Floats{});
        feed.fetch(FEED_LINES);
    }
    for (int64_t panel = 0; panel * PANEL < padded; ++panel) {
        const auto at = [&](int64_t piece) {
            const int64_t next = std::min(piece, width / DEPTH - 1);
            return pages.values(session.blocks[next / TilePages::PIECES], next % TilePages::PIECES, panel);
        };
        for (int64_t tile = 0; tile < weights.tiles(); tile += 2)
            TileProduct::sum(weights, tile, at, first_piece, common, sums + tile * SIDE * padded + panel * PANEL, padded,
                             TileProduct::following(at));
    }

    alignas(64) bfloat16 gathered[PIECE_ITEMS];
    for (int64_t row = begin, next; row < end; row = next) {
        // Rows that lie in place see the same.
        for (next = row + 1; next < end && session.all_in_place(next - 1) && session.all_in_place(next);) ++next;
        const int64_t first = (row - begin) * group, last = (next - begin) * group;
        for (int64_t piece = common; piece * DEPTH <= session.position(next - 1); ++piece)
            for (int64_t panel = 0; panel * PANEL < padded; ++panel) {
                gather(pages, session, next - 1, piece, panel, gathered);
                // Rows before this piece have no weights for it.
                const int64_t before = std::max<int64_t>(0, piece * DEPTH - session.position(row)) * group;
                go_on(weights, piece, gathered, first + before, last, sums + panel * PANEL, padded);
            }
        for (int64_t query = first; query < last; ++query)
            put_head(output.row(session.first + begin + query / group), output_column + query % group * size, size,
                     sums + query * padded, scratch.inverse[query]);
    }
}

}  // namespace paceline
#endif
