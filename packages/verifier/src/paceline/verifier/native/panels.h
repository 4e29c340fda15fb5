// Matrix products whose every output is one sum, term after term in order of the inner index, with fused multiply-add.
//
// So an output's bits depend on its own row and column alone: not on how many rows there are, how they are cut into
// tiles, or whether the sum is interrupted and goes on later. All products of the decoder, attention's included, are
// made of `multiply` (and `add_term`, which goes on with such a sum).
//
// A matrix is stored as panels of PANEL columns: [panel][inner][PANEL]. In bfloat16 the columns of a panel are
// interleaved, so that a shift and a mask widen them: word j of a group holds column j below and column LANES + j above.
#pragma once

#include <algorithm>

#include "feed.h"
#include "vectors.h"

namespace paceline {

constexpr int PANEL = 32;
constexpr int VECTORS = PANEL / LANES;
constexpr int NEAR_BYTES = 1024;  // from the second level of the cache to the first

template <typename Weight>
constexpr int LINES_PER_TERM = PANEL * sizeof(Weight) / LINE_BYTES;

enum class Into {
    STORE,     // output = sum
    ADD,       // output = output + sum
    CONTINUE,  // the sum goes on from output
};

// Where column `column` of a panel lies within a row of it.
template <typename Weight>
inline int place(int column);
template <>
inline int place<float>(int column) {
    return column;
}
template <>
inline int place<bfloat16>(int column) {
    const int group = column / (2 * LANES), within = column % (2 * LANES);
    return group * 2 * LANES + (within < LANES ? 2 * within : 2 * (within - LANES) + 1);
}

inline float value_of(float value) { return value; }
inline float value_of(bfloat16 value) { return widen(value); }

template <typename Weight>
inline Weight made_of(float value);
template <>
inline float made_of<float>(float value) {
    return value;
}
template <>
inline bfloat16 made_of<bfloat16>(float value) {
    return narrow(value);
}

inline void load_panel(const float* row, Floats (&columns)[VECTORS]) {
    for (int vector = 0; vector < VECTORS; ++vector) columns[vector] = load(row + vector * LANES);
}

inline void load_panel(const bfloat16* row, Floats (&columns)[VECTORS]) {
    for (int group = 0; group < VECTORS / 2; ++group) {
        Words words;
        std::memcpy(&words, row + group * 2 * LANES, sizeof words);
        columns[2 * group] = (Floats)(words << 16);
        columns[2 * group + 1] = (Floats)(words & 0xffff0000u);
    }
}

// One row of Rows: element k is row[k], and LANES of them from a multiple of LANES on lie together.
struct Row {
    float* first;
    int64_t step;  // between two groups of LANES

    float* group(int64_t k) const { return first + k / LANES * step; }
    float& operator[](int64_t k) const { return first[k / LANES * step + k % LANES]; }

    // LANES elements from k, a multiple of LANES, on; one.
    void store(int64_t k, Floats value) const { paceline::store(group(k), value); }
    void set(int64_t k, float value) const { (*this)[k] = value; }
};

// The left side of a product. Rows are cut into tiles of nearly equal height, and a tile lies as
// [width / LANES][height][LANES]: what its sums read one after the other is one stretch of memory.
struct Rows {
    using Row = paceline::Row;

    float* data;
    int64_t count, width;  // width: a multiple of LANES

    static int64_t room(int64_t count, int64_t width) { return count * width; }  // floats
    static Rows in(float* memory, int64_t count, int64_t width) { return {memory, count, width}; }

    int64_t num_tiles() const { return (count + TILE_ROWS - 1) / TILE_ROWS; }
    int64_t first(int64_t tile) const {
        const int64_t all = num_tiles();
        return tile * (count / all) + std::min(tile, count % all);
    }
    int64_t height(int64_t tile) const { return first(tile + 1) - first(tile); }
    float* tile_at(int64_t tile, int64_t k) const { return data + first(tile) * width + k * height(tile); }

    Row row(int64_t index) const {
        const int64_t all = num_tiles(), least = count / all, higher = count % all * (least + 1);
        const int64_t tile = index < higher ? index / (least + 1) : count % all + (index - higher) / least;
        return {tile_at(tile, 0) + (index - first(tile)) * LANES, height(tile) * LANES};
    }
};

// Where a product's outputs go: plain rows, or Rows cut as the left side is.
struct PlainOutput {
    float* data;
    int64_t stride;

    float* at(const Rows& rows, int64_t tile) const { return data + rows.first(tile) * stride; }
    int64_t row_step(const Rows&, int64_t) const { return stride; }
    int64_t group_step(const Rows&, int64_t) const { return LANES; }
};

struct RowsOutput {
    float* data;
    int64_t width, column;

    float* at(const Rows& rows, int64_t tile) const { return Rows{data, rows.count, width}.tile_at(tile, column); }
    int64_t row_step(const Rows&, int64_t) const { return LANES; }
    int64_t group_step(const Rows& rows, int64_t tile) const { return rows.height(tile) * LANES; }
};

// HEIGHT x PANEL outputs. tile: [inner / LANES][HEIGHT][LANES], panel: [inner][PANEL].
template <int HEIGHT, typename Weight>
void multiply_tile(const float* tile, const Weight* panel, int64_t inner, float* output, int64_t row_step,
                   int64_t group_step, Into into, Ahead ahead) {
    Floats sums[HEIGHT][VECTORS];
#pragma GCC unroll 12
    for (int row = 0; row < HEIGHT; ++row)
#pragma GCC unroll 8
        for (int vector = 0; vector < VECTORS; ++vector)
            sums[row][vector] =
                into == Into::CONTINUE ? load(output + row * row_step + vector * group_step) : Floats{};
    for (int64_t group = 0; group < inner; group += LANES) {
        const float* factors = tile + group * HEIGHT;
        const int64_t terms = std::min<int64_t>(LANES, inner - group);
#pragma GCC unroll 1
        for (int64_t term = 0; term < terms; ++term) {
            Floats columns[VECTORS];
            ahead.fetch<LINES_PER_TERM<Weight>>(group + term);
            __builtin_prefetch(reinterpret_cast<const char*>(panel + (group + term) * PANEL) + NEAR_BYTES);
            load_panel(panel + (group + term) * PANEL, columns);
#pragma GCC unroll 12
            for (int row = 0; row < HEIGHT; ++row) {
                const Floats factor = broadcast(factors[row * LANES + term]);
#pragma GCC unroll 8
                for (int vector = 0; vector < VECTORS; ++vector) sums[row][vector] += factor * columns[vector];
            }
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < HEIGHT; ++row)
#pragma GCC unroll 8
        for (int vector = 0; vector < VECTORS; ++vector) {
            float* to = output + row * row_step + vector * group_step;
            store(to, into == Into::ADD ? load(to) + sums[row][vector] : sums[row][vector]);
        }
}

template <typename Weight, int HEIGHT = TILE_ROWS>
void multiply_tile_of(int64_t height, const float* tile, const Weight* panel, int64_t inner, float* output,
                      int64_t row_step, int64_t group_step, Into into, Ahead ahead) {
    if constexpr (HEIGHT > 1) {
        if (height < HEIGHT) {
            multiply_tile_of<Weight, HEIGHT - 1>(height, tile, panel, inner, output, row_step, group_step, into,
                                                 ahead);
            return;
        }
    }
    multiply_tile<HEIGHT, Weight>(tile, panel, inner, output, row_step, group_step, into, ahead);
}

// Rows by one panel; the rows' elements from `from`, a multiple of LANES, on. `ahead(terms, lines)` is asked for each
// tile what to fetch meanwhile: as much for each, since later tiles find their panel in the cache and leave memory idle.
template <typename Weight, typename Output, typename Next>
void multiply(const Rows& rows, int64_t from, const Weight* panel, int64_t inner, const Output& output, Into into,
              const Next& ahead) {
    for (int64_t all = rows.num_tiles(), tile = 0; tile < all; ++tile)
        multiply_tile_of<Weight>(rows.height(tile), rows.tile_at(tile, from), panel, inner, output.at(rows, tile),
                                 output.row_step(rows, tile), output.group_step(rows, tile), into,
                                 ahead(inner, inner * LINES_PER_TERM<Weight> / all));
}

// One more term of the sums of one row: to += factor * (a row of a panel).
template <typename Weight>
void add_term(float factor, const Weight* panel_row, float* to) {
    Floats columns[VECTORS];
    load_panel(panel_row, columns);
    for (int vector = 0; vector < VECTORS; ++vector)
        store(to + vector * LANES, load(to + vector * LANES) + broadcast(factor) * columns[vector]);
}

// How the decoder multiplies its matrices: this way, or as in tiles.h.
template <typename Item>
struct PanelProduct {
    using Weight = Item;
    using Left = Rows;
    static constexpr const char* NAME = "fma";

    // What of the inner index a panel holds.
    static int64_t padded(int64_t inner) { return inner; }

    // Where an element lies in its panel.
    static int64_t place(int64_t k, int column) { return k * PANEL + paceline::place<Weight>(column); }

    // Whatever a thread has to do before it multiplies so many rows; and when it has done so for now.
    static void prepare(int64_t, int64_t&) {}
    static void release() {}

    template <typename Next>
    static void multiply(const Rows& rows, const Weight* panel, int64_t inner, const PlainOutput& output, Into into,
                         const Next& ahead) {
        paceline::multiply(rows, 0, panel, inner, output, into, ahead);
    }
};

// A matrix [columns][inner] as panels; what lies beyond the last column and the last row is 0.
template <typename Product, typename Weight = typename Product::Weight>
void pack_panel(const Weight* matrix, int64_t columns, int64_t inner, int64_t panel, Weight* to) {
    for (int column = 0; column < PANEL; ++column) {
        const int64_t source = panel * PANEL + column;
        for (int64_t k = 0; k < Product::padded(inner); ++k)
            to[Product::place(k, column)] = source < columns && k < inner ? matrix[source * inner + k] : Weight(0);
    }
}

}  // namespace paceline
