// Matrix products whose every output is one sum, term after term in order of the inner index, with fused multiply-add.
//
// So an output's bits depend on its own row and column alone: not on how many rows there are, how they are cut into
// tiles, or whether the sum is interrupted and goes on later. All products of the decoder, attention's included, are
// made of `multiply`.
//
// A matrix is stored as panels of PANEL columns: [panel][inner][PANEL]. In bfloat16 the columns of a panel are
// interleaved, so that a shift and a mask widen them: word j of a group holds column j below and column LANES + j above.
#pragma once

#include "vectors.h"

namespace paceline {

constexpr int PANEL = 32;
constexpr int VECTORS = PANEL / LANES;
constexpr int LINE_BYTES = 64;

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

// Memory that will be needed soon, fetched a little with each term of a sum.
struct Ahead {
    const char* from;
    int64_t step;  // bytes per term

    template <typename Weight>
    void fetch(int64_t k) const {
        const char* line = from + k * step;
        for (size_t byte = 0; byte < PANEL * sizeof(Weight); byte += LINE_BYTES)
            __builtin_prefetch(line + byte, 0, 2);
    }
};

// ROWS x PANEL outputs. rows: [ROWS][stride], panel: [inner][PANEL], output: [ROWS][output_stride].
template <int ROWS, typename Weight>
void multiply_tile(const float* rows, int64_t stride, const Weight* panel, int64_t inner, float* output,
                   int64_t output_stride, Into into, Ahead ahead) {
    Floats sums[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
        for (int vector = 0; vector < VECTORS; ++vector)
            sums[row][vector] =
                into == Into::CONTINUE ? load(output + row * output_stride + vector * LANES) : Floats{};
    for (int64_t k = 0; k < inner; ++k) {
        Floats columns[VECTORS];
        ahead.fetch<Weight>(k);
        load_panel(panel + k * PANEL, columns);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; ++row) {
            const float factor = rows[row * stride + k];
#pragma GCC unroll 8
            for (int vector = 0; vector < VECTORS; ++vector) sums[row][vector] += factor * columns[vector];
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 8
        for (int vector = 0; vector < VECTORS; ++vector) {
            float* to = output + row * output_stride + vector * LANES;
            store(to, into == Into::ADD ? load(to) + sums[row][vector] : sums[row][vector]);
        }
}

template <typename Weight, int ROWS = TILE_ROWS>
void multiply_few(int count, const float* rows, int64_t stride, const Weight* panel, int64_t inner, float* output,
                  int64_t output_stride, Into into, Ahead ahead) {
    if constexpr (ROWS > 1) {
        if (count < ROWS) {
            multiply_few<Weight, ROWS - 1>(count, rows, stride, panel, inner, output, output_stride, into, ahead);
            return;
        }
    }
    multiply_tile<ROWS, Weight>(rows, stride, panel, inner, output, output_stride, into, ahead);
}

// Any number of rows by one panel. Tiles of nearly equal height: a last tile of one row would be slow.
//
// Meanwhile `next`, a panel of the same size, is fetched: evenly over all tiles, since later tiles find this panel in
// the cache and leave memory idle.
template <typename Weight>
void multiply(int64_t count, const float* rows, int64_t stride, const Weight* panel, int64_t inner, float* output,
              int64_t output_stride, Into into, const Weight* next) {
    const int64_t all = (count + TILE_ROWS - 1) / TILE_ROWS, row_bytes = PANEL * sizeof(Weight);
    for (int64_t tile = 0, first = 0; tile < all; ++tile) {
        const int64_t left = all - tile, height = (count - first + left - 1) / left;
        const Ahead ahead{reinterpret_cast<const char*>(next) + inner * tile / all * row_bytes, row_bytes / all};
        multiply_few<Weight>(int(height), rows + first * stride, stride, panel, inner, output + first * output_stride,
                             output_stride, into, ahead);
        first += height;
    }
}

// A matrix [columns][inner] as panels; columns beyond the last are 0.
template <typename Weight>
void pack_panel(const Weight* matrix, int64_t columns, int64_t inner, int64_t panel, Weight* to) {
    for (int column = 0; column < PANEL; ++column) {
        const int64_t source = panel * PANEL + column;
        for (int64_t k = 0; k < inner; ++k)
            to[k * PANEL + place<Weight>(column)] = source < columns ? matrix[source * inner + k] : Weight(0);
    }
}

}  // namespace paceline
