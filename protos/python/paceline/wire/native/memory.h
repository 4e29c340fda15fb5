// Memory for large arrays.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace paceline {

// Memory that costs nothing until it is touched, aligned for vectors.
template <typename Item>
class Array {
public:
    Array() = default;
    explicit Array(int64_t count) : count_(count) {
        if (count == 0) return;
        void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        madvise(memory, bytes(), MADV_HUGEPAGE);
        items_ = static_cast<Item*>(memory);
    }
    Array(Array&& other) noexcept { swap(other); }
    Array& operator=(Array&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Array() {
        if (items_) munmap(items_, bytes());
    }
    Item* get() { return items_; }
    const Item* get() const { return items_; }
    int64_t size() const { return count_; }
    explicit operator bool() const { return items_ != nullptr; }

private:
    size_t bytes() const { return size_t(count_) * sizeof(Item); }
    void swap(Array& other) {
        std::swap(items_, other.items_);
        std::swap(count_, other.count_);
    }
    Item* items_ = nullptr;
    int64_t count_ = 0;
};

// Floats that are written before they are read, for as many as were ever asked for; aligned for vectors.
class Buffer {
public:
    float* room(int64_t count) {
        if (count > items_.size()) items_ = Array<float>(std::max(count, 2 * items_.size()));
        return items_.get();
    }
    float* get() { return items_.get(); }

private:
    Array<float> items_;
};

}  // namespace paceline
