// Products of rows with weights in int8, whose sums are exact integers.
//
// A row is rounded on a scale of its own, so what becomes of it depends on no other row. A fine row is
// scale * (rough + rest / STEPS), both in int8, and is multiplied as two. The instruction (VNNI) takes unsigned times
// signed numbers, so weights lie 128 higher than they are, and 128 times a row's sum is taken off.
//
// These are the numbers that the ONNX graph of such a head computes (trainer, models/graph_products.py).
#pragma once

#if !(defined(__AVX512VNNI__) && defined(__AVX512F__)) && !defined(__AVXVNNI__)
#error "this processor has no VNNI"
#endif

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "amx.h"
#include "memory.h"
#include "team.h"
#include "vectors.h"

namespace paceline {

constexpr int DEPTH = 4;               // of the inner index, in one lane
constexpr int VECTORS = 2;             // of a panel
constexpr int PANEL = VECTORS * LANES; // columns
constexpr int LEVELS = 127;            // on each side of 0
constexpr int RAISED = 128;            // what weights lie higher
constexpr int STEPS = 254;             // of a fine number, between one rough number and the next
constexpr float SMALLEST = 1e-20f;     // a row of zeros has no greatest number

constexpr int TILE_DEPTH = 64;         // of the inner index, in a tile
#if defined(__AMX_INT8__) && defined(__AVX512F__) && defined(__linux__)  // whose lanes a tile's columns are
#define PACELINE_TILES 1
#endif

typedef int8_t Bytes __attribute__((vector_size(LANES)));

inline Ints add_products(Ints sum, Ints weights, int32_t row) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(row));
#else
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(row));
#endif
}

// Rows as they go into products: [rows][parts][width], each part with its sum.
class RoundedRows {
public:
    // Rounds rows of `inner` numbers, a multiple of LANES, which lie `stride` apart.
    void round(const float* rows, int64_t count, int64_t inner, int64_t stride, bool fine) {
        count_ = count;
        inner_ = inner;
        parts_ = fine ? 2 : 1;
        const int64_t bytes = count * parts_ * inner;
        items_ = reinterpret_cast<int8_t*>(room_.room((bytes + 3) / 4));
        sums_ = sum_room_.room(count * parts_);
        scales_ = scale_room_.room(count);
        for (int64_t row = 0; row < count; ++row) round_one(rows + row * stride, row);
    }

    int64_t count() const { return count_; }
    int64_t inner() const { return inner_; }
    int parts() const { return parts_; }
    const int8_t* part(int64_t index) const { return items_ + index * inner_; }
    float sum(int64_t index) const { return sums_[index]; }  // times RAISED; exact
    float scale(int64_t row) const { return scales_[row]; }

private:
    void round_one(const float* row, int64_t index) {
        Floats most{};
        for (int64_t k = 0; k < inner_; k += LANES) {
            const Floats value = load(row + k), size = value < 0.0f ? -value : value;
            most = size > most ? size : most;
        }
        const float scale = std::max(greatest(most), SMALLEST) * (1.0f / LEVELS);
        scales_[index] = scale;
        const Floats magic = broadcast(12582912.0f), raised = broadcast(RAISED + 0.5f);
        int8_t *const rough_to = items_ + index * parts_ * inner_, *const rest_to = rough_to + inner_;
        Ints rough_sum{}, rest_sum{};
        for (int64_t k = 0; k < inner_; k += LANES) {
            const Floats number = load(row + k) / broadcast(scale);
            if (parts_ == 1) {
                rough_sum += keep(rough_to + k, number + raised);
                continue;
            }
            const Floats rough = (number + magic) - magic;
            rough_sum += keep(rough_to + k, rough + raised);
            rest_sum += keep(rest_to + k, (number - rough) * float(STEPS) + raised);
        }
        sums_[index * parts_] = float(total(rough_sum) * RAISED);
        if (parts_ == 2) sums_[index * parts_ + 1] = float(total(rest_sum) * RAISED);
    }

    // What is above a whole number is cut off.
    static Ints keep(int8_t* to, Floats raised) {
        const Ints whole = __builtin_convertvector(raised, Ints) - RAISED;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        std::memcpy(to, &bytes, sizeof bytes);
        return whole;
    }

    static int32_t total(Ints value) {
        int32_t sum = 0;
        for (int lane = 0; lane < LANES; ++lane) sum += value[lane];
        return sum;
    }

    Buffer room_, sum_room_, scale_room_;
    int8_t* items_ = nullptr;
    float *sums_ = nullptr, *scales_ = nullptr;
    int64_t count_ = 0, inner_ = 0;
    int parts_ = 1;
};

// A matrix [columns][inner] as panels [inner / DEPTH][PANEL][DEPTH] of raised weights, with a scale for each column.
class Matrix {
public:
    Matrix() = default;
    Matrix(int64_t columns, int64_t inner)
        : columns_(columns), inner_(inner), weights_(padded() * inner), scales_(padded()) {
        std::fill_n(weights_.get(), padded() * inner, uint8_t(RAISED));
    }

    int64_t columns() const { return columns_; }
    int64_t padded() const { return round_up(columns_, PANEL); }  // what a product writes of each row

    // Rows [first, first + count) of the matrix from `weights` [count][inner].
    void set(int64_t first, int64_t count, const int8_t* weights, const float* scales) {
        for (int64_t row = 0; row < count; ++row) {
            scales_.get()[first + row] = scales[row];
            for (int64_t k = 0; k < inner_; ++k)
                weights_.get()[place(first + row, k)] = uint8_t(weights[row * inner_ + k] + RAISED);
        }
    }

    // A row of the matrix as numbers [inner].
    void look_up(int64_t row, float* to) const {
        const float scale = scales_.get()[row];
        for (int64_t k = 0; k < inner_; ++k) to[k] = float(int(weights_.get()[place(row, k)]) - RAISED) * scale;
    }

    // The first `columns` columns of rows * this, to [rows][stride], whole panels of them.
    void multiply(Team& team, const RoundedRows& rows, int64_t columns, float* output, int64_t stride, bool tiles) const {
        const int64_t panels = (columns + PANEL - 1) / PANEL;
        const int64_t each = std::max<int64_t>(1, panels / (4 * team.size()));
        tiles = tiles && inner_ % TILE_DEPTH == 0;
        team.run((panels + each - 1) / each, [&](int64_t item, int) {
            const int64_t begin = item * each, end = std::min(panels, begin + each);
#if defined(PACELINE_TILES)
            if (tiles) return by_tiles(rows, begin, end, output, stride);
#endif
            for (int64_t panel = begin; panel < end; ++panel) {
                if (rows.parts() == 2) of_panel<2>(rows, panel, output + panel * PANEL, stride);
                else of_panel<1>(rows, panel, output + panel * PANEL, stride);
            }
        });
    }

private:
    static constexpr int ROWS = 8;  // parts of rows whose sums fill half of the registers

    int64_t place(int64_t row, int64_t k) const {
        return (row / PANEL * inner_ + k / DEPTH * DEPTH) * PANEL + row % PANEL * DEPTH + k % DEPTH;
    }

#if defined(PACELINE_TILES)
    // Panels [begin, end): parts of rows are the rows of tiles, a tile's depth of a panel two tiles side by side.
    void by_tiles(const RoundedRows& rows, int64_t begin, int64_t end, float* output, int64_t stride) const {
        const int64_t count = rows.count() * rows.parts();
        for (int64_t first = 0; first < count; first += SIDE) {
            const int64_t num = std::min<int64_t>(SIDE, count - first);
            set_up_tiles([num](int tile) { return tile < 4 ? num : SIDE; });
            for (int64_t panel = begin; panel < end; ++panel) {
                alignas(64) int32_t sums[SIDE * PANEL];
                sum(rows.part(first), panel, sums);
                for (int64_t row = first / rows.parts(); row < (first + num) / rows.parts(); ++row) {
                    const int32_t* const of_row = sums + (row * rows.parts() - first) * PANEL;
                    finish(rows, row, of_row, of_row + PANEL, panel, output + row * stride + panel * PANEL);
                }
            }
        }
        _tile_release();
    }

    void sum(const int8_t* rows, int64_t panel, int32_t* sums) const {
        constexpr int64_t PIECE = TILE_DEPTH * PANEL, WEIGHT_STRIDE = PANEL * DEPTH;
        const uint8_t* weights = weights_.get() + panel * PANEL * inner_;
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t k = 0; k < inner_; k += TILE_DEPTH, weights += PIECE) {
            fetch(weights + PIECE, 0);
            _tile_loadd(2, rows + k, inner_);
            _tile_loadd(6, weights, WEIGHT_STRIDE);
            fetch(weights + PIECE, 1);
            _tile_dpbsud(0, 2, 6);
            _tile_loadd(7, weights + WEIGHT_STRIDE / 2, WEIGHT_STRIDE);
            fetch(weights + PIECE, 2);
            fetch(weights + PIECE, 3);
            _tile_dpbsud(1, 2, 7);
        }
        _tile_stored(0, sums, PANEL * sizeof(int32_t));
        _tile_stored(1, sums + SIDE, PANEL * sizeof(int32_t));
        tiles_written();
    }

    // A quarter of what comes next.
    static void fetch(const uint8_t* next, int quarter) {
        constexpr int64_t BYTES = TILE_DEPTH * PANEL / 4;
        for (int64_t line = 0; line < BYTES; line += 64) __builtin_prefetch(next + quarter * BYTES + line);
    }
#endif

    // Sums of a row's parts to its numbers of a panel.
    void finish(const RoundedRows& rows, int64_t row, const int32_t* rough, const int32_t* rest, int64_t panel,
                float* to) const {
        for (int v = 0; v < VECTORS; ++v) {
            const Floats scale = load(scales_.get() + panel * PANEL + v * LANES);
            Ints sum;
            std::memcpy(&sum, rough + v * LANES, sizeof sum);
            Floats value = product(sum, rows.sum(row * rows.parts()), scale);
            if (rows.parts() == 2) {
                std::memcpy(&sum, rest + v * LANES, sizeof sum);
                value += product(sum, rows.sum(row * 2 + 1), scale) * (1.0f / STEPS);
            }
            store(to + v * LANES, value * rows.scale(row));
        }
    }

    template <int PARTS>
    void of_panel(const RoundedRows& rows, int64_t panel, float* output, int64_t stride) const {
        constexpr int MOST = ROWS / PARTS;
        int64_t row = 0;
        for (; row + MOST <= rows.count(); row += MOST) of_rows<PARTS, MOST>(rows, panel, row, output, stride);
        switch (rows.count() - row) {
            case 7: if constexpr (MOST > 7) return of_rows<PARTS, 7>(rows, panel, row, output, stride); break;
            case 6: if constexpr (MOST > 6) return of_rows<PARTS, 6>(rows, panel, row, output, stride); break;
            case 5: if constexpr (MOST > 5) return of_rows<PARTS, 5>(rows, panel, row, output, stride); break;
            case 4: if constexpr (MOST > 4) return of_rows<PARTS, 4>(rows, panel, row, output, stride); break;
            case 3: return of_rows<PARTS, 3>(rows, panel, row, output, stride);
            case 2: return of_rows<PARTS, 2>(rows, panel, row, output, stride);
            case 1: return of_rows<PARTS, 1>(rows, panel, row, output, stride);
        }
    }

    template <int PARTS, int COUNT>
    void of_rows(const RoundedRows& rows, int64_t panel, int64_t first, float* output, int64_t stride) const {
        constexpr int ALL = PARTS * COUNT;
        Ints sums[ALL][VECTORS] = {};
        const uint8_t* weights = weights_.get() + panel * PANEL * inner_;
        const int8_t* const row = rows.part(first * PARTS);
        for (int64_t k = 0; k < inner_; k += DEPTH, weights += PANEL * DEPTH) {
            Ints these[VECTORS];
            std::memcpy(these, weights, sizeof these);
            for (int part = 0; part < ALL; ++part) {
                int32_t four;
                std::memcpy(&four, row + part * inner_ + k, sizeof four);
                for (int v = 0; v < VECTORS; ++v) sums[part][v] = add_products(sums[part][v], these[v], four);
            }
        }
        alignas(64) int32_t kept[ALL * PANEL];
        // Unrolled, or sums would lie in memory all the time.
#pragma GCC unroll 8
        for (int part = 0; part < ALL; ++part) std::memcpy(kept + part * PANEL, sums[part], sizeof sums[part]);
        for (int index = 0; index < COUNT; ++index) {
            const int32_t* const of_row = kept + index * PARTS * PANEL;
            finish(rows, first + index, of_row, of_row + PANEL, panel, output + (first + index) * stride);
        }
    }

    static Floats product(Ints sum, float raised, Floats scale) {
        return (__builtin_convertvector(sum, Floats) - raised) * scale;
    }

    int64_t columns_ = 0, inner_ = 0;
    Array<uint8_t> weights_;
    Array<float> scales_;
};

}  // namespace paceline
