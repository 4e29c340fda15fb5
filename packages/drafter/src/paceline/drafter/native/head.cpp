#include "head.h"

#include <memory>
#include <vector>

#include "attention.h"
#include "best.h"

namespace paceline {

enum Part {
    EMBEDDING, FUSE, MIX, QUERY, KEY, VALUE, OUT, GATE, UP, DOWN,
    FEATURE_MEAN, FEATURE_SCALE, EMBEDDING_NORM, HIDDEN_NORM, INPUT_NORM, POST_NORM, NORM, COSINES, SINES,
    NUM_PARTS,
};

constexpr int NUM_MATRICES = FEATURE_MEAN;

// Rows to rows: each number by the root of the mean of their squares, and by a weight if there is one.
void normalise(const float* from, int64_t size, float epsilon, const float* weight, float* to) {
    Floats squares{};
    for (int64_t k = 0; k < size; k += LANES) {
        const Floats value = load(from + k);
        squares += value * value;
    }
    const Floats scale = broadcast(1.0f / std::sqrt(total(squares) / float(size) + epsilon));
    for (int64_t k = 0; k < size; k += LANES) {
        const Floats value = load(from + k) * scale;
        store(to + k, weight ? value * load(weight + k) : value);
    }
}

class Head {
public:
    explicit Head(const PacelineHeadConfig& config)
        : config_(config),
          shape_{config.heads, config.key_heads, config.head_size},
          team_(int(config.threads), [](int) {}),
          embedding_(config.vocabulary + 1, config.width),
          fuse_(config.width, config.num_features * config.feature_size),
          mix_(config.width, 2 * config.width),
          qkv_(query_width() + 2 * shape_.kv_width(), config.width),
          out_(config.width, query_width()),
          gate_up_(2 * config.intermediate, config.width),
          down_(config.width, config.intermediate) {
        for (int thread = 0; thread < team_.size(); ++thread) attention_.emplace_back(shape_);
#if defined(PACELINE_TILES)
        tiles_ = config.tiles && may_use_tiles();
#endif
    }

    const char* product_name() const { return tiles_ ? "amx" : "vnni"; }

    void set(Part part, const void* data, const float* scales) {
        const auto* numbers = static_cast<const int8_t*>(data);
        const int64_t width = config_.width, kv = shape_.kv_width();
        switch (part) {
            case EMBEDDING: return embedding_.set(0, config_.vocabulary + 1, numbers, scales);
            case FUSE: return fuse_.set(0, width, numbers, scales);
            case MIX: return mix_.set(0, width, numbers, scales);
            case QUERY: return qkv_.set(0, query_width(), numbers, scales);
            case KEY: return qkv_.set(query_width(), kv, numbers, scales);
            case VALUE: return qkv_.set(query_width() + kv, kv, numbers, scales);
            case OUT: return out_.set(0, width, numbers, scales);
            case GATE: return gate_up_.set(0, config_.intermediate, numbers, scales);
            case UP: return gate_up_.set(config_.intermediate, config_.intermediate, numbers, scales);
            case DOWN: return down_.set(0, width, numbers, scales);
            default: break;
        }
        const auto* floats = static_cast<const float*>(data);
        vectors_[part].assign(floats, floats + size_of(part));
    }

    void forward(const PacelineHeadStep& step) {
        int64_t count = 0;
        for (int64_t index = 0; index < step.num_sessions; ++index) count += step.sessions[index].count;
        const int64_t width = config_.width;
        float* const stream = stream_.room(count * width);
        mix(step, count, stream);
        attend(step, count, stream);
        think(count, stream);
        int64_t first = 0;
        for (int64_t index = 0; index < step.num_sessions; ++index) {
            const PacelineHeadSession& session = step.sessions[index];
            std::copy_n(stream + first * width, session.count * width, session.states + session.length * width);
            if (session.num_wanted) say(session, stream + first * width);
            first += session.count;
        }
    }

private:
    int64_t query_width() const { return config_.heads * config_.head_size; }

    int64_t size_of(Part part) const {
        switch (part) {
            case FEATURE_MEAN:
            case FEATURE_SCALE: return config_.num_features * config_.feature_size;
            case COSINES:
            case SINES: return config_.max_length * config_.head_size / 2;
            default: return config_.width;
        }
    }

    const float* vector(Part part) const { return vectors_[part].data(); }

    void product(const Matrix& matrix, const float* rows, int64_t count, int64_t inner, float* output, int64_t stride) {
        rounded_.round(rows, count, inner, inner, true);
        matrix.multiply(team_, rounded_, matrix.columns(), output, stride, tiles_);
    }

    // What rows are told, and their tokens, to what the layer works on.
    void mix(const PacelineHeadStep& step, int64_t count, float* stream) {
        const int64_t width = config_.width;
        float* const beside = wide_.room(count * 2 * width);
        int64_t row = 0;
        for (int64_t index = 0; index < step.num_sessions; ++index) {
            const PacelineHeadSession& session = step.sessions[index];
            const float* told = session.features ? fused(session) : nullptr;
            for (int64_t own = 0; own < session.count; ++own, ++row) {
                float* const to = beside + row * 2 * width;
                embed(step.tokens[row], session, to);
                normalise(to, width, config_.epsilon, vector(EMBEDDING_NORM), to);
                const float* const hidden = told ? told + own * width : session.states + session.above[own] * width;
                normalise(hidden, width, config_.epsilon, vector(HIDDEN_NORM), to + width);
            }
        }
        product(mix_, beside, count, 2 * width, output_.room(count * mix_.padded()), mix_.padded());
        copy_rows(output_.get(), mix_.padded(), count, stream);
    }

    void copy_rows(const float* from, int64_t stride, int64_t count, float* to) const {
        for (int64_t row = 0; row < count; ++row)
            std::copy_n(from + row * stride, config_.width, to + row * config_.width);
    }

    void add_rows(const float* from, int64_t stride, int64_t count, float* to) const {
        for (int64_t row = 0; row < count; ++row)
            for (int64_t k = 0; k < config_.width; k += LANES) {
                float* const place = to + row * config_.width + k;
                store(place, load(place) + load(from + row * stride + k));
            }
    }

    void embed(int64_t token, const PacelineHeadSession& session, float* to) const {
        if (token <= config_.vocabulary) return embedding_.look_up(token, to);
        std::copy_n(session.borrowed + (token - config_.vocabulary - 1) * config_.width, config_.width, to);
    }

    // The target's states of a session's rows to hidden states [count][width].
    const float* fused(const PacelineHeadSession& session) {
        const int64_t size = config_.feature_size, inner = config_.num_features * size;
        float* const rows = fuse_rows_.room(session.count * inner);
        for (int64_t row = 0; row < session.count; ++row) {
            float* const to = rows + row * inner;
            for (int64_t layer = 0; layer < config_.num_features; ++layer)
                normalise(session.features + row * inner + layer * size, size, config_.epsilon, nullptr,
                          to + layer * size);
            for (int64_t k = 0; k < inner; k += LANES)
                store(to + k, (load(to + k) - load(vector(FEATURE_MEAN) + k)) * load(vector(FEATURE_SCALE) + k));
        }
        float* const output = output_.room(session.count * fuse_.padded());
        product(fuse_, rows, session.count, inner, output, fuse_.padded());
        copy_rows(output, fuse_.padded(), session.count, rows);
        return rows;
    }

    void attend(const PacelineHeadStep& step, int64_t count, float* stream) {
        float* const normed = narrow_.room(count * config_.width);
        normalise_rows(stream, count, INPUT_NORM, normed);
        const int64_t stride = qkv_.padded(), queries = query_width(), kv = shape_.kv_width();
        float* const output = output_.room(count * stride);
        product(qkv_, normed, count, config_.width, output, stride);
        int64_t row = 0;
        for (int64_t index = 0; index < step.num_sessions; ++index) {
            const PacelineHeadSession& session = step.sessions[index];
            for (int64_t own = 0; own < session.count; ++own, ++row) {
                float* const here = output + row * stride;
                turn(here, config_.heads + config_.key_heads, step.positions[row]);
                const Floats scale = broadcast(1.0f / std::sqrt(float(config_.head_size)));
                for (int64_t k = 0; k < queries; k += LANES) store(here + k, load(here + k) * scale);
                cache(session, session.length + own, here + queries, here + queries + kv);
            }
        }
        float* const attended = wide_.room(count * stride);
        firsts_.assign(1, 0);
        int64_t most = 0;
        for (int64_t index = 0; index < step.num_sessions; ++index) {
            const PacelineHeadSession& session = step.sessions[index];
            firsts_.push_back(firsts_.back() + session.count);
            most = std::max(most, session.length + session.count);
        }
        for (Attention& attention : attention_) attention.reserve(most);
        team_.run(step.num_sessions * config_.key_heads, [&](int64_t item, int thread) {
            const int64_t index = item / config_.key_heads, first = firsts_[index];
            const PacelineHeadSession& session = step.sessions[index];
            const SeenRows rows{session.count, session.length, session.visible, session.keys, session.values};
            attention_[thread].run(rows, item % config_.key_heads, output + first * stride, attended + first * stride,
                                   stride);
        });
        rounded_.round(attended, count, queries, stride, true);
        float* const back = output_.room(count * out_.padded());
        out_.multiply(team_, rounded_, config_.width, back, out_.padded(), tiles_);
        add_rows(back, out_.padded(), count, stream);
    }

    void normalise_rows(const float* rows, int64_t count, Part weight, float* to) const {
        for (int64_t row = 0; row < count; ++row)
            normalise(rows + row * config_.width, config_.width, config_.epsilon, vector(weight),
                      to + row * config_.width);
    }

    // Rotary positions, the halves of a head being the pairs.
    void turn(float* heads, int64_t count, int64_t position) const {
        const int64_t half = config_.head_size / 2;
        const float *const cosines = vector(COSINES) + position * half, *const sines = vector(SINES) + position * half;
        for (int64_t head = 0; head < count; ++head) {
            float* const low = heads + head * config_.head_size;
            for (int64_t k = 0; k < half; ++k) {
                const float real = low[k], imaginary = low[k + half];
                low[k] = real * cosines[k] - imaginary * sines[k];
                low[k + half] = imaginary * cosines[k] + real * sines[k];
            }
        }
    }

    void cache(const PacelineHeadSession& session, int64_t position, const float* key, const float* value) const {
        std::copy_n(value, shape_.kv_width(), session.values + position * shape_.kv_width());
        for (int64_t head = 0; head < config_.key_heads; ++head)
            for (int64_t k = 0; k < config_.head_size; ++k)
                session.keys[shape_.key_place(position, head, k)] = key[head * config_.head_size + k];
    }

    void think(int64_t count, float* stream) {
        const int64_t inner = config_.intermediate, stride = gate_up_.padded();
        float* const normed = narrow_.room(count * config_.width);
        normalise_rows(stream, count, POST_NORM, normed);
        float* const output = output_.room(count * stride);
        product(gate_up_, normed, count, config_.width, output, stride);
        for (int64_t row = 0; row < count; ++row)
            for (int64_t k = 0; k < inner; k += LANES) {
                const Floats gate = load(output + row * stride + k), up = load(output + row * stride + inner + k);
                store(output + row * stride + k, gate / (exponential(-gate) + 1.0f) * up);
            }
        rounded_.round(output, count, inner, stride, true);
        float* const back = wide_.room(count * down_.padded());
        down_.multiply(team_, rounded_, config_.width, back, down_.padded(), tiles_);
        add_rows(back, down_.padded(), count, stream);
    }

    // Logits of a session's wanted rows, or what is to know of them.
    void say(const PacelineHeadSession& session, const float* stream) {
        const int64_t width = config_.width, count = session.num_wanted;
        float* const normed = narrow_.room(count * width);
        for (int64_t index = 0; index < count; ++index)
            normalise(stream + session.wanted[index] * width, width, config_.epsilon, vector(NORM),
                      normed + index * width);
        rounded_.round(normed, count, width, width, false);
        const int64_t own = config_.vocabulary, all = session.num_borrowed ? own + 1 + session.num_borrowed : own;
        const int64_t stride = round_up(std::max(all, round_up(own, PANEL)), LANES);
        float* const logits = logits_.room(count * stride);
        embedding_.multiply(team_, rounded_, own, logits, stride, tiles_);
        for (int64_t index = 0; index < count; ++index) {
            float* const row = logits + index * stride;
            std::fill(row + own, row + stride, NEVER);
            for (int64_t other = 0; other < session.num_borrowed; ++other)
                row[own + 1 + other] = inner_product(normed + index * width, session.borrowed + other * width);
            if (session.logits) std::copy_n(row, all, session.logits + index * all);
            else summarise(session, index, row, stride);
        }
    }

    float inner_product(const float* left, const float* right) const {
        Floats sum{};
        for (int64_t k = 0; k < config_.width; k += LANES) sum += load(left + k) * load(right + k);
        return total(sum);
    }

    void summarise(const PacelineHeadSession& session, int64_t index, const float* row, int64_t size) {
        best_.clear(session.num_best);
        best_.show(row, 0, size);
        for (int64_t rank = 0; rank < session.num_best; ++rank) {
            session.best[index * session.num_best + rank] = best_.kept()[rank].id;
            session.best_logits[index * session.num_best + rank] = best_.kept()[rank].score;
        }
        const Floats top = broadcast(best_.kept()[0].score), scale = broadcast(session.scale);
        const Floats least = broadcast(-87.0f);
        Floats sum{}, weighted{};
        for (int64_t k = 0; k < size; k += LANES) {
            const Floats apart = (load(row + k) - top) * scale, shifted = apart > least ? apart : least;
            const Floats weight = apart > least ? exponential(shifted) : Floats{};
            sum += weight;
            weighted += weight * shifted;
        }
        const double all = total(sum), log_total = std::log(all);
        session.log_totals[index] = log_total;
        session.entropies[index] = log_total - double(total(weighted)) / all;
    }

    const PacelineHeadConfig config_;
    const AttentionShape shape_;
    bool tiles_ = false;
    Team team_;
    Matrix embedding_, fuse_, mix_, qkv_, out_, gate_up_, down_;
    std::vector<float> vectors_[NUM_PARTS];
    std::vector<Attention> attention_;  // of each thread
    std::vector<int64_t> firsts_;
    RoundedRows rounded_;
    Buffer stream_, wide_, narrow_, output_, fuse_rows_, logits_;
    Best best_;
};

}  // namespace paceline

extern "C" {

void* paceline_head_open(const PacelineHeadConfig* config) {
    try {
        return new paceline::Head(*config);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void paceline_head_close(void* head) { delete static_cast<paceline::Head*>(head); }

const char* paceline_head_product_name(void* head) { return static_cast<paceline::Head*>(head)->product_name(); }

void paceline_head_set(void* head, int part, const void* data, const float* scales) {
    static_cast<paceline::Head*>(head)->set(paceline::Part(part), data, scales);
}

int paceline_head_forward(void* head, const PacelineHeadStep* step) {
    try {
        static_cast<paceline::Head*>(head)->forward(*step);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
}
