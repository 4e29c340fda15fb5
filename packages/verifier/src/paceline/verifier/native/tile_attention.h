// Attention by the products of tiles.h.
//
// A sum over positions takes DEPTH of them at a time. So that it is the same sum whatever a row's ancestors lie
// between, pieces of which a row doesn't see every position where it lies are put together for it first, as if they
// were committed, with zeros for what comes after it.
#pragma once

#include "session_rows.h"
#include "tiles.h"

#ifdef PACELINE_TILES

namespace paceline {

// A layer's cache for one key head. A page of keys: [HALVES] panels, positions as columns; one of values:
// [padded_size / PANEL] panels, positions as inner index.
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
            bfloat16* const to =
                values(block, piece, k / PANEL) + TileProduct::place(within - within % 2, int(k % PANEL));
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

    // A pair of positions' values: what is at one slot below, at the other above; -1 is nothing. To [halves][SIDE]
    // words, TILE_ITEMS apart.
    void pair(const int32_t* blocks, int64_t low_slot, int64_t high_slot, int64_t panel, bfloat16* to) const {
        for (int64_t half = 0; half < 2; ++half) {
            const Words low = low_half(blocks, low_slot, panel, half);
            const Words words = low | low_half(blocks, high_slot, panel, half) << 16;
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

// Rows [begin, end) of a session, by one key head and the query heads that share it.
class TileAttention {
public:
    TileAttention(const TilePages& pages, const SessionRows& session, int64_t begin, int64_t end, int64_t group,
                  int64_t window, Scratch& scratch)
        : pages_(pages),
          session_(session),
          begin_(begin),
          end_(end),
          group_(group),
          window_(window),
          width_(round_up(session.length + end, BLOCK_TOKENS)),  // ancestors come before their descendants
          line_(width_ + LANES),  // with a row of scores every 4 KiB all would share one corner of the cache
          count_((end - begin) * group),
          depth_(TileProduct::padded(pages.head_size)),
          scaled_(SplitRows::in(scratch.queries.room(SplitRows::room(count_, depth_)), count_, depth_)),
          weights_(SplitRows::in(scratch.weights.room(SplitRows::room(count_, width_)), count_, width_)),
          scores_(scratch.scores.room(round_up(count_, SIDE) * line_)),
          sums_(scratch.sums.room(round_up(count_, SIDE) * pages.padded_size)),
          inverse_(scratch.inverse) {
        int64_t first_seen = width_, shared = width_;
        for (int64_t row = begin; row < end; ++row) {
            first_seen = std::min(first_seen, session.first_seen(row, window));
            shared = std::min(shared, session.num_in_place(row));
        }
        first_block_ = first_seen / BLOCK_TOKENS;
        first_piece_ = first_block_ * TilePages::PIECES;
        common_ = std::max(first_piece_, shared / DEPTH);
        inverse_.resize(count_);
        TileProduct::prepare(count_, scratch.shape);
    }

    // queries: [rows][stride], the group's heads side by side.
    void scale(const float* queries, int64_t stride, float factor) const {
        const int64_t size = pages_.head_size;
        for (int64_t query = 0; query < count_; ++query)
            put_head(scaled_.row(query), 0, size,
                     queries + (begin_ + query / group_) * stride + query % group_ * size, factor);
    }

    // By slot.
    void score() const {
        const int64_t pieces = depth_ / DEPTH, last = width_ / PANEL - 1;
        for (int64_t panel = first_block_ * HALVES; panel <= last; ++panel) {
            const auto at = [&](int64_t piece) {
                const int64_t of = piece < pieces ? panel : std::min(panel + 1, last);
                return pages_.keys(session_.blocks[of / HALVES], of % HALVES) + piece % pieces * PIECE_ITEMS;
            };
            for (int64_t tile = 0; tile < scaled_.tiles(); tile += 2)
                TileProduct::sum(scaled_, tile, at, 0, pieces, scores_ + tile * SIDE * line_ + panel * PANEL, line_,
                                 TileProduct::following(at));
        }
    }

    // By position.
    void weigh(Feed& feed) const {
        for (int64_t query = 0; query < count_; ++query) {
            const int64_t row = begin_ + query / group_;
            const SplitRows::Row to = weights_.row(query);
            inverse_[query] = soften(session_, row, window_, Row{scores_ + query * line_, LANES},
                                     [&to](int64_t index, Floats weight) { to.store(index, weight); });
            const int64_t written = round_up(session_.position(row) + 1, LANES);
            if (written % DEPTH) to.store(written, Floats{});
            feed.fetch(FEED_LINES);
        }
    }

    // Weighted values of the pieces that every row sees where they lie.
    void sum() const {
        const int64_t padded = pages_.padded_size, last = width_ / DEPTH - 1;
        for (int64_t panel = 0; panel * PANEL < padded; ++panel) {
            const auto at = [&](int64_t piece) {
                const int64_t of = std::min(piece, last);
                return pages_.values(session_.blocks[of / TilePages::PIECES], of % TilePages::PIECES, panel);
            };
            for (int64_t tile = 0; tile < weights_.tiles(); tile += 2)
                TileProduct::sum(weights_, tile, at, first_piece_, common_,
                                 sums_ + tile * SIDE * padded + panel * PANEL, padded, TileProduct::following(at));
        }
    }

    // The rest of them; rows that lie in place, one after the other, see the same.
    void sum_rest() const {
        for (int64_t row = begin_, next; row < end_; row = next) {
            next = row + 1;
            while (next < end_ && session_.all_in_place(next - 1) && session_.all_in_place(next)) ++next;
            for (int64_t piece = common_; piece * DEPTH <= session_.position(next - 1); ++piece) {
                const int64_t ended = std::max<int64_t>(0, piece * DEPTH - session_.position(row));
                go_on(piece, row + ended, next);
            }
        }
    }

    void put(const SplitRows& output, int64_t column) const {
        for (int64_t query = 0; query < count_; ++query)
            put_head(output.row(session_.first + begin_ + query / group_), column + query % group_ * pages_.head_size,
                     pages_.head_size, sums_ + query * pages_.padded_size, inverse_[query]);
    }

private:
    // A piece for the rows [row, next), as the last of them sees it.
    void go_on(int64_t piece, int64_t row, int64_t next) const {
        const int64_t first = (row - begin_) * group_, end = (next - begin_) * group_, padded = pages_.padded_size;
        alignas(64) bfloat16 gathered[PIECE_ITEMS];
        alignas(64) float own[SIDE * PANEL];  // the tile's other rows see something else: theirs are left
        for (int64_t panel = 0; panel * PANEL < padded; ++panel) {
            float* const sums = sums_ + panel * PANEL;
            gather(next - 1, piece, panel, gathered);
            for (int64_t tile = first / SIDE; tile * SIDE < end; ++tile) {
                const int64_t from = std::max(first, tile * SIDE), to = std::min(end, (tile + 1) * SIDE);
                for (int64_t query = from; query < to; ++query)
                    std::memcpy(own + query % SIDE * PANEL, sums + query * padded, PANEL * sizeof(float));
                TileProduct::go_on(weights_.tile(tile) + piece * PIECE_ITEMS, gathered, own, PANEL);
                for (int64_t query = from; query < to; ++query)
                    std::memcpy(sums + query * padded, own + query % SIDE * PANEL, PANEL * sizeof(float));
            }
        }
    }

    void gather(int64_t row, int64_t piece, int64_t panel, bfloat16* to) const {
        const int64_t last = session_.position(row);
        for (int64_t position = piece * DEPTH; position < (piece + 1) * DEPTH; position += 2, to += DEPTH)
            pages_.pair(session_.blocks, position <= last ? session_.slot(row, position) : -1,
                        position < last ? session_.slot(row, position + 1) : -1, panel, to);
    }

    const TilePages& pages_;
    const SessionRows& session_;
    const int64_t begin_, end_, group_, window_, width_, line_, count_, depth_;
    const SplitRows scaled_, weights_;
    float *const scores_, *const sums_;
    std::vector<float>& inverse_;  // 1 / the sum of each row's weights
    int64_t first_block_, first_piece_, common_;
};

// As in attention.h.
inline void attend(const TilePages& pages, const SessionRows& session, int64_t begin, int64_t end, int64_t group,
                   const float* queries, int64_t stride, float scale, int64_t window, const SplitRows& output,
                   int64_t output_column, Scratch& scratch, Feed& feed) {
    const TileAttention attention(pages, session, begin, end, group, window, scratch);
    attention.scale(queries, stride, scale);
    attention.score();
    attention.weigh(feed);
    attention.sum();
    attention.sum_rest();
    attention.put(output, output_column);
}

}  // namespace paceline
#endif
