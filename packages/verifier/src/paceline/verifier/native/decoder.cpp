#include "attention.h"
#include "best.h"
#include "tile_attention.h"

namespace paceline {
namespace {

constexpr int64_t HEAD_PANELS = 4;  // of the head are taken at a time
constexpr int64_t PART_ROWS = 4;  // at least, of a session in one item of attention that was cut for threads to share
constexpr int64_t FEW_ROWS = 12;  // up to here norms are too little to share out
constexpr int64_t FEW_PLACED = 4;  // and up to here, what goes into the cache

template <typename Weight>
struct Layer {
    Array<float> input_norm, post_norm, q_norm, k_norm;
    Matrix<Weight> qkv, out, gate_up, down;
    int64_t window = 0;
};

// Product: how matrices are multiplied, PanelProduct or TileProduct.
template <typename Product>
class PanelDecoder final : public Decoder {
    using Weight = typename Product::Weight;
    using Left = typename Product::Left;
    using Pages = typename PagesOf<Product>::Type;

public:
    PanelDecoder(const PacelineConfig& config, const float* inverse_frequencies, const int32_t* windows)
        : Decoder(int(config.threads)),
          config_(config),
          padded_size_(round_up(config.head_size, PANEL)),
          qkv_width_(round_up((config.heads + 2 * config.key_heads) * config.head_size, PANEL)),
          hidden_width_(round_up(config.hidden, PANEL)),
          gate_width_(round_up(config.intermediate, PANEL)),
          attended_width_(round_up(config.heads * config.head_size, PANEL)),
          page_items_(Pages::items(config.head_size)),
          frequencies_(inverse_frequencies, inverse_frequencies + config.head_size / 2),
          layers_(config.layers),
          weights_(num_weights()),
          scratch_(config.threads) {
        for (int64_t index = 0; index < config.layers; ++index) layers_[index].window = windows[index];
    }

    int64_t block_bytes() const override {
        return config_.layers * config_.key_heads * page_items_ * int64_t(sizeof(Weight));
    }

    void allocate(int64_t blocks) override {
        pages_ = Array<Weight>(blocks * config_.layers * config_.key_heads * page_items_);
    }

    void set(int64_t index, Part part, const void* data, const float* bias) override {
        const int64_t size = config_.head_size, hidden = config_.hidden;
        Layer<Weight>& layer = layers_[std::max<int64_t>(index, 0)];
        switch (part) {
            case QKV: pack(layer.qkv, (config_.heads + 2 * config_.key_heads) * size, hidden, data, bias); break;
            case OUT: pack(layer.out, hidden, config_.heads * size, data, bias); break;
            case GATE_UP: pack_pairs(layer.gate_up, data, bias); break;
            case DOWN: pack(layer.down, hidden, config_.intermediate, data, bias); break;
            case HEAD:
                head_.panels_per_item = HEAD_PANELS;
                pack(head_, config_.vocabulary, hidden, data, bias);
                break;
            case EMBEDDING: embedding_ = copy<Weight>(data, config_.vocabulary * hidden); break;
            case INPUT_NORM: layer.input_norm = copy<float>(data, hidden); break;
            case POST_NORM: layer.post_norm = copy<float>(data, hidden); break;
            case Q_NORM: layer.q_norm = copy<float>(data, size); break;
            case K_NORM: layer.k_norm = copy<float>(data, size); break;
            case FINAL_NORM: final_norm_ = copy<float>(data, hidden); break;
        }
    }

    void forward(const PacelineStep& step) override {
        plan_feeds();
        scratch_[0].shape = 0;  // the caller's thread: others may have computed in it since
        begin(step);
        capture(step, 0);
        for (int64_t index = 0; index < config_.layers; ++index) {
            const Layer<Weight>& layer = layers_[index];
            normalize(layer.input_norm.get());
            product(layer.qkv, normal_, PlainOutput{qkv_.get(), qkv_width_}, Into::STORE);
            place_heads(layer, index);
            if (index + 1 == config_.layers && step.num_wanted == 0 && !captures(step, config_.layers))
                break;  // keys and values were all that is asked
            attention(layer, index);
            product(layer.out, attended_, PlainOutput{state_.get(), hidden_width_}, Into::ADD);
            normalize(layer.post_norm.get());
            gate(layer.gate_up);
            product(layer.down, gated_, PlainOutput{state_.get(), hidden_width_}, Into::ADD);
            capture(step, index + 1);
        }
        finish(step);
        Product::release();
    }

    void move(const int32_t* blocks, int64_t count, const int32_t* from, const int32_t* to) override {
        for (int64_t layer = 0; layer < config_.layers; ++layer)
            for (int64_t head = 0; head < config_.key_heads; ++head) {
                const Pages pages = pages_of(layer, head);
                for (int64_t index = 0; index < count; ++index)
                    pages.copy(blocks[from[index] / BLOCK_TOKENS], from[index] % BLOCK_TOKENS,
                               blocks[to[index] / BLOCK_TOKENS], to[index] % BLOCK_TOKENS);
            }
    }

    const char* product_name() const override { return Product::NAME; }

    void forget(int64_t block) override {
        char* memory = reinterpret_cast<char*>(pages_.get()) + block * block_bytes();
        const int64_t page = sysconf(_SC_PAGESIZE);
        const uintptr_t begin = uintptr_t(round_up(int64_t(uintptr_t(memory)), page));
        const uintptr_t end = (uintptr_t(memory) + block_bytes()) / page * page;
        if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    }

private:
    // Of all matrices that are streamed: together, so that they lie in huge pages and memory is read without a break.
    int64_t num_weights() const {
        const int64_t hidden = config_.hidden, attended = config_.heads * config_.head_size;
        const int64_t layer = (qkv_width_ + 2 * gate_width_) * Product::padded(hidden) +
                              hidden_width_ * (Product::padded(attended) + Product::padded(config_.intermediate));
        return config_.layers * layer + round_up(config_.vocabulary, PANEL) * Product::padded(hidden);
    }

    Weight* take_panels(const Matrix<Weight>& matrix) {
        if (matrix.panels) return matrix.panels;
        Weight* panels = weights_.get() + num_taken_;
        num_taken_ += matrix.num_panels() * matrix.depth * PANEL;
        if (num_taken_ > weights_.size()) throw std::bad_alloc();
        return panels;
    }

    template <typename Item>
    static Array<Item> copy(const void* data, int64_t count) {
        Array<Item> items(count);
        std::memcpy(items.get(), data, size_t(count) * sizeof(Item));
        return items;
    }

    void pack(Matrix<Weight>& matrix, int64_t columns, int64_t inner, const void* data, const float* bias) {
        matrix.columns = columns;
        matrix.inner = inner;
        matrix.depth = Product::padded(inner);
        matrix.panels = take_panels(matrix);
        team_.run(matrix.num_panels(), [&](int64_t panel, int) {
            pack_panel<Product>(static_cast<const Weight*>(data), columns, inner, panel,
                                matrix.panels + panel * matrix.depth * PANEL);
        });
        if (bias) {
            matrix.bias = Array<float>(matrix.num_panels() * PANEL);
            std::copy(bias, bias + columns, matrix.bias.get());
        }
    }

    // Gate and up side by side: panel 2i holds gate's panel i, panel 2i + 1 up's.
    void pack_pairs(Matrix<Weight>& matrix, const void* data, const float* bias) {
        const int64_t inner = config_.hidden, columns = config_.intermediate, panels = gate_width_ / PANEL;
        matrix.columns = 2 * gate_width_;
        matrix.inner = inner;
        matrix.depth = Product::padded(inner);
        matrix.panels_per_item = 2;
        matrix.panels = take_panels(matrix);
        const Weight* rows = static_cast<const Weight*>(data);
        team_.run(2 * panels, [&](int64_t panel, int) {
            pack_panel<Product>(rows + panel % 2 * columns * inner, columns, inner, panel / 2,
                                matrix.panels + panel * matrix.depth * PANEL);
        });
        if (!bias) return;
        matrix.bias = Array<float>(2 * gate_width_);
        for (int64_t column = 0; column < columns; ++column)
            for (int64_t half = 0; half < 2; ++half)
                matrix.bias.get()[(column / PANEL * 2 + half) * PANEL + column % PANEL] = bias[half * columns + column];
    }

    Pages pages_of(int64_t layer, int64_t head) {
        return {pages_.get() + (layer * config_.key_heads + head) * page_items_,
                config_.layers * config_.key_heads * page_items_, config_.head_size, padded_size_};
    }

    static Left left(Buffer& buffer, int64_t rows, int64_t width) {
        return Left::in(buffer.room(Left::room(rows, width)), rows, width);
    }

    // Sessions, ancestors, angles, and the rows' embeddings.
    void begin(const PacelineStep& step) {
        const int64_t rows = step.num_rows, half = config_.head_size / 2;
        rows_ = rows;
        state_.room(rows * hidden_width_);
        qkv_.room(rows * qkv_width_);
        normal_ = left(normal_buffer_, rows, hidden_width_);
        attended_ = left(attended_buffer_, rows, attended_width_);
        gated_ = left(gated_buffer_, rows, gate_width_);
        cosines_.resize(rows * half);
        sines_.resize(rows * half);
        session_of_.resize(rows);
        sessions_.resize(step.num_sessions);
        for (int64_t index = 0; index < step.num_sessions; ++index) {
            SessionRows& session = sessions_[index];
            session.first = step.starts[index];
            session.count = step.starts[index + 1] - step.starts[index];
            session.length = step.lengths[index];
            session.blocks = step.blocks + step.block_starts[index];
            session.ancestors.assign(session.count, {});
            session.in_place.assign(session.count, 0);
            for (int64_t row = 0; row < session.count; ++row) {
                const int32_t parent = step.parents[session.first + row];
                std::vector<int32_t>& ancestors = session.ancestors[row];
                if (parent >= 0) ancestors = session.ancestors[parent];
                const bool follows = parent < 0 || session.in_place[parent] == int64_t(ancestors.size());
                session.in_place[row] = parent < 0 ? 0 : session.in_place[parent];
                session.in_place[row] += follows && row == int64_t(ancestors.size());
                ancestors.push_back(int32_t(row));
                session_of_[session.first + row] = int32_t(index);
            }
        }
        share_rows([&](int64_t row) {
            const SessionRows& session = sessions_[session_of_[row]];
            const int64_t position = session.position(row - session.first);
            for (int64_t index = 0; index < half; ++index) {
                const float angle = float(position) * frequencies_[index];
                cosines_[row * half + index] = std::cos(angle) * config_.rope_scale;
                sines_[row * half + index] = std::sin(angle) * config_.rope_scale;
            }
            embed(step.tokens[row], state_.get() + row * hidden_width_);
        });
    }

    void embed(int64_t token, float* to) const {
        if (embedding_) {
            const Weight* from = embedding_.get() + token * config_.hidden;
            for (int64_t index = 0; index < config_.hidden; ++index) to[index] = value_of(from[index]);
        } else {  // tied to the head: its column
            const Weight* panel = head_.panel(token / PANEL);
            const int column = int(token % PANEL);
            for (int64_t index = 0; index < config_.hidden; ++index)
                to[index] = value_of(panel[Product::place(index, column)]);
        }
        std::fill(to + config_.hidden, to + hidden_width_, 0.0f);
    }

    static bool captures(const PacelineStep& step, int64_t layer) {
        return std::find(step.feature_layers, step.feature_layers + step.num_features, layer) !=
               step.feature_layers + step.num_features;
    }

    // Writes down the state of all rows behind this layer, if it is asked for.
    void capture(const PacelineStep& step, int64_t layer) {
        for (int64_t place = 0; place < step.num_features; ++place) {
            if (step.feature_layers[place] != layer) continue;
            share_rows([&](int64_t row) {
                const float* from = state_.get() + row * hidden_width_;
                bfloat16* to = step.features + (row * step.num_features + place) * config_.hidden;
                for (int64_t index = 0; index < config_.hidden; ++index) to[index] = narrow(from[index]);
            });
        }
    }

    template <typename Work>
    void share_rows(const Work& work) {
        if (rows_ <= FEW_ROWS) {
            for (int64_t row = 0; row < rows_; ++row) work(row);
        } else {
            team_.run(rows_, [&](int64_t row, int) { work(row); });
        }
    }

    // 1 / rms. Rows may have padding behind `size`.
    float inverse_rms(const float* from, int64_t size) const {
        const int64_t whole = size / LANES * LANES;
        Floats squares = Floats{};
        for (int64_t index = 0; index < whole; index += LANES) squares += load(from + index) * load(from + index);
        float sum = total(squares);
        for (int64_t index = whole; index < size; ++index) sum += from[index] * from[index];
        return 1.0f / std::sqrt(sum / float(size) + config_.epsilon);
    }

    // values = values / rms(values) * weight
    void norm(float* values, const float* weight, int64_t size) const {
        const float factor = inverse_rms(values, size);
        for (int64_t index = 0; index < size; ++index) values[index] = values[index] * factor * weight[index];
    }

    // The same from a row of the state.
    void norm(int64_t row, const float* weight, const typename Left::Row& to) {
        const float* from = state_.get() + row * hidden_width_;
        const int64_t size = config_.hidden, whole = size / LANES * LANES;
        const float factor = inverse_rms(from, size);
        for (int64_t index = 0; index < whole; index += LANES)
            to.store(index, load(from + index) * factor * load(weight + index));
        for (int64_t index = whole; index < size; ++index) to.set(index, from[index] * factor * weight[index]);
    }

    void normalize(const float* weight) {
        share_rows([&](int64_t row) { norm(row, weight, normal_.row(row)); });
    }

    // What each thread reads in a step, in order. Once; the weights are all there when the first step comes.
    void plan_feeds() {
        if (has_feeds_) return;
        has_feeds_ = true;
        for (Layer<Weight>& layer : layers_)
            for (Matrix<Weight>* matrix : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down}) add_stretches(*matrix);
        add_stretches(head_);
        for (Feed& feed : feeds_) feed.open();
    }

    void add_stretches(Matrix<Weight>& matrix) {
        for (int thread = 0; thread < team_.size(); ++thread) {
            const Weight* begin = matrix.panel(first_panel(matrix, thread));
            const Weight* end = matrix.panel(std::min(matrix.num_panels(), first_panel(matrix, thread + 1)));
            matrix.stretch = feeds_[thread].add(begin, (end - begin) * int64_t(sizeof(Weight)));
        }
    }

    int64_t first_panel(const Matrix<Weight>& matrix, int thread) const {
        return team_.begin(matrix.num_items(), thread) * matrix.panels_per_item;
    }

    // One panel's product, while the thread's feed goes on.
    void multiply_panel(const Matrix<Weight>& matrix, int64_t panel, const Left& rows, const PlainOutput& to, Into into,
                        int thread) {
        Feed& feed = feeds_[thread];
        const int64_t begin = first_panel(matrix, thread);
        if (panel >= begin && panel < first_panel(matrix, thread + 1))  // else it was another thread's
            feed.reach(matrix.stretch, (panel - begin) * matrix.depth * PANEL * int64_t(sizeof(Weight)));
        Product::prepare(rows.count, scratch_[thread].shape);
        Product::multiply(rows, matrix.panel(panel), matrix.inner, to, into,
                          [&feed](int64_t terms, int64_t lines) { return feed.take(terms, lines); });
        if (matrix.bias) add_bias(rows.count, matrix.bias.get() + panel * PANEL, to.data, to.stride);
    }

    void product(const Matrix<Weight>& matrix, const Left& rows, const PlainOutput& output, Into into) {
        team_.run(matrix.num_panels(), [&](int64_t panel, int thread) {
            multiply_panel(matrix, panel, rows, {output.data + panel * PANEL, output.stride}, into, thread);
        });
    }

    static void add_bias(int64_t rows, const float* bias, float* to, int64_t stride) {
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t index = 0; index < PANEL; index += LANES)
                store(to + row * stride + index, load(to + row * stride + index) + load(bias + index));
    }

    // gated = silu(gate) * up, from a panel of each.
    void gate(const Matrix<Weight>& matrix) {
        team_.run(matrix.num_items(), [&](int64_t pair, int thread) {
            float* const both = scratch_[thread].sums.room(rows_ * 2 * PANEL);
            for (int64_t half = 0; half < 2; ++half)
                multiply_panel(matrix, 2 * pair + half, normal_, {both + half * PANEL, 2 * PANEL}, Into::STORE, thread);
            for (int64_t row = 0; row < rows_; ++row) {
                const auto to = gated_.row(row);
                for (int64_t index = 0; index < PANEL; index += LANES) {
                    const Floats gate = load(both + row * 2 * PANEL + index);
                    const Floats up = load(both + row * 2 * PANEL + PANEL + index);
                    to.store(pair * PANEL + index, gate / (1.0f + exponential(-gate)) * up);
                }
            }
        });
    }

    // Norms and turns queries and keys, puts keys and values into the cache. Shared out by key head: rows of a session
    // lie side by side in the cache.
    void place_heads(const Layer<Weight>& layer, int64_t index) {
        const auto place_all = [&](int64_t head) {
            for (int64_t row = 0; row < rows_; ++row) place_head(layer, index, head, row);
        };
        if (rows_ <= FEW_PLACED) {
            for (int64_t head = 0; head < config_.key_heads; ++head) place_all(head);
        } else {
            team_.run(config_.key_heads, [&](int64_t head, int) { place_all(head); });
        }
    }

    void place_head(const Layer<Weight>& layer, int64_t index, int64_t head, int64_t row) {
        const int64_t size = config_.head_size, group = config_.heads / config_.key_heads;
        const SessionRows& session = sessions_[session_of_[row]];
        const int64_t slot = session.length + row - session.first, offset = slot % BLOCK_TOKENS;
        const int32_t block = session.blocks[slot / BLOCK_TOKENS];
        float* const heads = qkv_.get() + row * qkv_width_;
        for (int64_t query = head * group; query < (head + 1) * group; ++query) {
            if (layer.q_norm) norm(heads + query * size, layer.q_norm.get(), size);
            turn(row, heads + query * size);
        }
        float* const key = heads + (config_.heads + head) * size;
        if (layer.k_norm) norm(key, layer.k_norm.get(), size);
        turn(row, key);
        pages_of(index, head).put(block, offset, key, key + config_.key_heads * size);
    }

    // Rotary position embedding; pairs are half a head apart.
    void turn(int64_t row, float* values) const {
        const int64_t half = config_.head_size / 2;
        const float *cosines = cosines_.data() + row * half, *sines = sines_.data() + row * half;
        if (half % LANES == 0) {
            for (int64_t index = 0; index < half; index += LANES) {
                const Floats low = load(values + index), high = load(values + half + index);
                const Floats cosine = load(cosines + index), sine = load(sines + index);
                store(values + index, low * cosine - high * sine);
                store(values + half + index, high * cosine + low * sine);
            }
            return;
        }
        for (int64_t index = 0; index < half; ++index) {
            const float low = values[index], high = values[half + index];
            values[index] = low * cosines[index] - high * sines[index];
            values[half + index] = high * cosines[index] + low * sines[index];
        }
    }

    struct Item {
        const SessionRows* session;
        int64_t head, begin, end;
    };

    void attention(const Layer<Weight>& layer, int64_t index) {
        const int64_t group = config_.heads / config_.key_heads, size = config_.head_size;
        const int64_t most = std::max<int64_t>(1, Pages::QUERIES_AT_ONCE / group);
        items_.clear();
        for (const SessionRows& session : sessions_) {
            int64_t parts = (session.count + most - 1) / most;
            if (parts * config_.key_heads % team_.size())
                parts = std::max(parts, std::min(parts * team_.size(), session.count / PART_ROWS));
            for (int64_t part = 0; part < parts; ++part)
                for (int64_t head = 0; head < config_.key_heads; ++head)
                    items_.push_back(
                        {&session, head, session.count * part / parts, session.count * (part + 1) / parts});
        }
        team_.run(int64_t(items_.size()), [&](int64_t number, int thread) {
            const Item& item = items_[number];
            const int64_t column = item.head * group * size;
            attend(pages_of(index, item.head), *item.session, item.begin, item.end, group,
                   qkv_.get() + item.session->first * qkv_width_ + column, qkv_width_, config_.attention_scale,
                   layer.window, attended_, column, scratch_[thread], feeds_[thread]);
        });
    }

    void finish(const PacelineStep& step) {
        const int64_t count = step.num_wanted, vocabulary = config_.vocabulary;
        if (count == 0) return;
        const Left rows = left(normal_buffer_, count, hidden_width_);
        for (int64_t index = 0; index < count; ++index)
            norm(step.wanted[index], final_norm_.get(), rows.row(index));
        const int64_t items = head_.num_items(), each = head_.panels_per_item, num_best = step.num_best;
        best_.resize(team_.size() * count);
        for (Best& best : best_) best.clear(num_best);
        team_.run(items, [&](int64_t item, int thread) {
            for (int64_t panel = item * each; panel < std::min(head_.num_panels(), (item + 1) * each); ++panel) {
                const int64_t first = panel * PANEL, columns = std::min<int64_t>(PANEL, vocabulary - first);
                const PlainOutput to{scratch_[thread].sums.room(count * PANEL), PANEL};
                multiply_panel(head_, panel, rows, to, Into::STORE, thread);
                for (int64_t row = 0; row < count; ++row) {
                    const float* logits = to.data + row * PANEL;
                    if (step.logits) std::copy_n(logits, columns, step.logits + row * vocabulary + first);
                    if (num_best) best_[thread * count + row].show(logits, int32_t(first), columns);
                }
            }
        });
        for (int64_t row = 0; row < count && num_best; ++row) {
            Best& best = best_[row];
            for (int thread = 1; thread < team_.size(); ++thread)
                for (const Scored& other : best_[thread * count + row].kept()) best.show(other);
            for (int64_t rank = 0; rank < num_best; ++rank) {
                const int32_t id = best.kept()[rank].id;
                step.best[row * num_best + rank] = id < vocabulary ? id : 0;
            }
        }
    }

    const PacelineConfig config_;
    const int64_t padded_size_, qkv_width_, hidden_width_, gate_width_, attended_width_, page_items_;
    const std::vector<float> frequencies_;
    std::vector<Layer<Weight>> layers_;
    Array<Weight> weights_;
    int64_t num_taken_ = 0;
    bool has_feeds_ = false;
    Matrix<Weight> head_;
    Array<Weight> embedding_;
    Array<float> final_norm_;
    Array<Weight> pages_;  // [blocks][layers][key heads][keys, then values]
    int64_t rows_ = 0;
    std::vector<SessionRows> sessions_;
    std::vector<int32_t> session_of_;
    Buffer state_, qkv_, normal_buffer_, attended_buffer_, gated_buffer_;
    Left normal_{}, attended_{}, gated_{};
    std::vector<float> cosines_, sines_;
    std::vector<Item> items_;
    std::vector<Scratch> scratch_;
    std::vector<Best> best_;  // [threads][wanted]
};

}  // namespace

std::unique_ptr<Decoder> make_decoder(const PacelineConfig& config, const float* inverse_frequencies,
                                      const int32_t* windows) {
#ifdef PACELINE_TILES
    if (config.bfloat && config.tiles && may_use_tiles())
        return std::make_unique<PanelDecoder<TileProduct>>(config, inverse_frequencies, windows);
#endif
    if (config.bfloat)
        return std::make_unique<PanelDecoder<PanelProduct<bfloat16>>>(config, inverse_frequencies, windows);
    return std::make_unique<PanelDecoder<PanelProduct<float>>>(config, inverse_frequencies, windows);
}

}  // namespace paceline

using paceline::Decoder;

extern "C" {

void* paceline_open(const PacelineConfig* config, const float* inverse_frequencies, const int32_t* windows) {
    try {
        return paceline::make_decoder(*config, inverse_frequencies, windows).release();
    } catch (const std::exception&) {
        return nullptr;
    }
}

void paceline_close(void* decoder) { delete static_cast<Decoder*>(decoder); }

int64_t paceline_block_bytes(void* decoder) { return static_cast<Decoder*>(decoder)->block_bytes(); }

const char* paceline_product_name(void* decoder) { return static_cast<Decoder*>(decoder)->product_name(); }

// These three return 0, or 1 if there is no memory.
int paceline_allocate(void* decoder, int64_t blocks) {
    try {
        static_cast<Decoder*>(decoder)->allocate(blocks);
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

int paceline_set(void* decoder, int64_t layer, int part, const void* data, const float* bias) {
    try {
        static_cast<Decoder*>(decoder)->set(layer, paceline::Part(part), data, bias);
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

int paceline_forward(void* decoder, const PacelineStep* step) {
    try {
        static_cast<Decoder*>(decoder)->forward(*step);
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

void paceline_move(void* decoder, const int32_t* blocks, int64_t count, const int32_t* from, const int32_t* to) {
    static_cast<Decoder*>(decoder)->move(blocks, count, from, to);
}

void paceline_forget(void* decoder, const int32_t* blocks, int64_t count) {
    for (int64_t index = 0; index < count; ++index) static_cast<Decoder*>(decoder)->forget(blocks[index]);
}
}
