// Matrix products by the processor's matrix unit (AMX), for weights in bfloat16.
//
// The unit multiplies bfloat16 by bfloat16 and sums in float32. Rows are float32, so each of their numbers is taken as
// the sum of two bfloat16 (16 bits of its 24; the weight it meets has 8), and each pair of tiles is multiplied twice.
// What an output's bits are depends on its own row and column alone, as in panels.h: a row's sum takes the inner index
// in pieces of DEPTH, the high parts of a piece before the low ones, and the unit treats each row of a tile alike,
// however many there are and wherever it lies among them (Intel, "Intrinsics Guide", TDPBF16PS).
//
// Up to SIDE rows cost as much as one: memory takes longer to bring the weights than the unit to multiply them.
#pragma once

#include "amx.h"
#include "panels.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__linux__)
#define PACELINE_TILES 1

namespace paceline {

constexpr int DEPTH = 32;  // of the inner index, in one tile
constexpr int64_t TILE_ITEMS = SIDE * DEPTH;
constexpr int64_t PIECE_ITEMS = 2 * TILE_ITEMS;  // of a panel: both halves; of rows: high and low parts

// The left side of a product: [rows / SIDE][width / DEPTH][high, low][SIDE][DEPTH]. Where an element lies does not
// depend on how many rows there are, so what nobody writes, beyond the inner size, stays 0 as it was when memory was
// taken.
struct SplitRows {
    bfloat16* data;
    int64_t count, width;  // width: a multiple of DEPTH

    struct Row {
        bfloat16* first;

        // LANES elements from k, a multiple of LANES, on.
        void store(int64_t k, Floats value) const {
            const __m512 whole = (__m512)value;
            const __m256bh high = _mm512_cvtneps_pbh(whole);
            const __m512 rest = _mm512_sub_ps(whole, _mm512_cvtpbh_ps(high));
            bfloat16* const to = at(k);
            _mm256_store_si256(reinterpret_cast<__m256i*>(to), (__m256i)high);
            _mm256_store_si256(reinterpret_cast<__m256i*>(to + TILE_ITEMS), (__m256i)_mm512_cvtneps_pbh(rest));
        }

        void set(int64_t k, float value) const {
            const bfloat16 high = narrow(value);
            at(k)[0] = high;
            at(k)[TILE_ITEMS] = narrow(value - widen(high));
        }

    private:
        bfloat16* at(int64_t k) const { return first + k / DEPTH * PIECE_ITEMS + k % DEPTH; }
    };

    static int64_t room(int64_t count, int64_t width) { return round_up(count, SIDE) * width; }  // floats

    static SplitRows in(float* memory, int64_t count, int64_t width) {
        return {reinterpret_cast<bfloat16*>(memory), count, width};
    }

    int64_t tiles() const { return (count + SIDE - 1) / SIDE; }
    const bfloat16* tile(int64_t index) const { return data + index * SIDE * width * 2; }

    Row row(int64_t index) const { return {data + index / SIDE * SIDE * width * 2 + index % SIDE * DEPTH}; }
};

// A matrix as panels of tiles: [panel][inner / DEPTH][halves of its columns][DEPTH / 2][SIDE][2].
struct TileProduct {
    using Weight = bfloat16;
    using Left = SplitRows;
    static constexpr const char* NAME = "amx";

    static int64_t padded(int64_t inner) { return round_up(inner, DEPTH); }

    static int64_t place(int64_t k, int column) {
        return k / DEPTH * PIECE_ITEMS + column / SIDE * TILE_ITEMS + k % DEPTH / 2 * DEPTH + column % SIDE * 2 + k % 2;
    }

    // Sets the calling thread's unit up for so many rows, unless it is: `shape` says for how many it was.
    static void prepare(int64_t count, int64_t& shape) {
        const int64_t rows = std::min<int64_t>(count, SIDE);
        if (rows == shape) return;
        shape = rows;
        // The last two hold weights.
        set_up_tiles([rows](int tile) { return tile < 6 ? rows : SIDE; });
    }

    // The thread may go back to whoever else computes in it.
    static void release() { _tile_release(); }

    // As in panels.h; into: STORE or ADD, since no sum goes on from one product to the next.
    template <typename Next>
    static void multiply(const SplitRows& rows, const bfloat16* panel, int64_t inner, const PlainOutput& output,
                         Into into, const Next& ahead) {
        const int64_t pieces = padded(inner) / DEPTH, passes = (rows.tiles() + 1) / 2;
        const auto at = [panel](int64_t piece) { return panel + piece * PIECE_ITEMS; };
        for (int64_t tile = 0; tile < rows.tiles(); tile += 2) {
            alignas(64) float sums[2 * SIDE * PANEL];
            if (tile == 0) {  // memory has no time for anything else than the panel itself
                sum(rows, tile, at, 0, pieces, sums, PANEL, following(at));
            } else {
                const Ahead next = ahead(4 * pieces, 4 * pieces * QUARTER / passes);
                sum(rows, tile, at, 0, pieces, sums, PANEL,
                    [&next](int64_t piece, int quarter) { next.fetch<QUARTER>(4 * piece + quarter); });
            }
            const int64_t first = tile * SIDE, count = std::min<int64_t>(rows.count - first, 2 * SIDE);
            for (int64_t row = 0; row < count; ++row)
                for (int64_t column = 0; column < PANEL; column += LANES) {
                    float* const to = output.data + (first + row) * output.stride + column;
                    const Floats value = load(sums + row * PANEL + column);
                    store(to, into == Into::ADD ? load(to) + value : value);
                }
        }
    }

    // What to fetch during a quarter of a piece: that quarter of the next one.
    template <typename At>
    static auto following(const At& at) {
        return [&at](int64_t piece, int quarter) {
            const char* const next = reinterpret_cast<const char*>(at(piece + 1));
            for (int line = quarter * QUARTER; line < (quarter + 1) * QUARTER; ++line)
                __builtin_prefetch(next + line * LINE_BYTES);
        };
    }

    // Sums of one tile of rows, or of two if there is a second, by a panel whose pieces [begin, end) lie at
    // `at(piece)`. To [SIDE or 2 * SIDE][stride] from `sums` on; at least all rows that `prepare` was told of are
    // written. `fetch(piece, quarter)` is called four times for each.
    template <typename At, typename Fetch>
    static void sum(const SplitRows& rows, int64_t tile, const At& at, int64_t begin, int64_t end, float* sums,
                    int64_t stride, const Fetch& fetch) {
        if (tile + 1 < rows.tiles())
            two_tiles(rows.tile(tile), rows.tile(tile + 1), at, begin, end, sums, stride, fetch);
        else
            one_tile(rows.tile(tile), at, begin, end, sums, stride, fetch);
        tiles_written();
    }

    // One piece more for the sums of a tile of rows.
    static void go_on(const bfloat16* rows, const bfloat16* piece, float* sums, int64_t stride) {
        const int64_t bytes = stride * sizeof(float);
        tiles_written();
        _tile_loadd(0, sums, bytes);
        _tile_loadd(1, sums + SIDE, bytes);
        add_piece(rows, piece);
        _tile_stored(0, sums, bytes);
        _tile_stored(1, sums + SIDE, bytes);
        tiles_written();
    }

private:
    static constexpr int QUARTER = PIECE_ITEMS * sizeof(bfloat16) / LINE_BYTES / 4;  // lines of a piece of a panel
    static constexpr int64_t STRIDE = TILE_BYTES;  // between two rows of a tile that holds bfloat16

    static void add_piece(const bfloat16* rows, const bfloat16* piece) {
        _tile_loadd(6, piece, STRIDE);
        _tile_loadd(4, rows, STRIDE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, piece + TILE_ITEMS, STRIDE);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, rows + TILE_ITEMS, STRIDE);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
    }

    // Fetching a quarter at a time leaves the loads of tiles a place in the queue: 7.5 ms for all weights of SmolLM2
    // instead of 10.9, at 16 rows.
    template <typename At, typename Fetch>
    static void one_tile(const bfloat16* rows, const At& at, int64_t begin, int64_t end, float* sums, int64_t stride,
                         const Fetch& fetch) {
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t number = begin; number < end; ++number) {
            const bfloat16 *piece = at(number), *left = rows + number * PIECE_ITEMS;
            fetch(number, 0);
            _tile_loadd(6, piece, STRIDE);
            _tile_loadd(4, left, STRIDE);
            _tile_dpbf16ps(0, 4, 6);
            fetch(number, 1);
            _tile_loadd(7, piece + TILE_ITEMS, STRIDE);
            _tile_dpbf16ps(1, 4, 7);
            fetch(number, 2);
            _tile_loadd(5, left + TILE_ITEMS, STRIDE);
            _tile_dpbf16ps(0, 5, 6);
            fetch(number, 3);
            _tile_dpbf16ps(1, 5, 7);
        }
        _tile_stored(0, sums, stride * sizeof(float));
        _tile_stored(1, sums + SIDE, stride * sizeof(float));
    }

    template <typename At, typename Fetch>
    static void two_tiles(const bfloat16* low_rows, const bfloat16* high_rows, const At& at, int64_t begin, int64_t end,
                          float* sums, int64_t stride, const Fetch& fetch) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t number = begin; number < end; ++number) {
            const bfloat16* const piece = at(number);
            const bfloat16 *low = low_rows + number * PIECE_ITEMS, *high = high_rows + number * PIECE_ITEMS;
            fetch(number, 0);
            _tile_loadd(6, piece, STRIDE);
            _tile_loadd(7, piece + TILE_ITEMS, STRIDE);
            _tile_loadd(4, low, STRIDE);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            fetch(number, 1);
            _tile_loadd(5, high, STRIDE);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            fetch(number, 2);
            _tile_loadd(4, low + TILE_ITEMS, STRIDE);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            fetch(number, 3);
            _tile_loadd(5, high + TILE_ITEMS, STRIDE);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        float* const second = sums + SIDE * stride;
        _tile_stored(0, sums, stride * sizeof(float));
        _tile_stored(1, sums + SIDE, stride * sizeof(float));
        _tile_stored(2, second, stride * sizeof(float));
        _tile_stored(3, second + SIDE, stride * sizeof(float));
    }
};

}  // namespace paceline
#endif
