#include "lora_plan.h"

namespace graftwork {

LoraRows::LoraRows(const std::vector<std::int32_t>& slots) : tokens(static_cast<std::int64_t>(slots.size())) {
    for (std::int64_t first = 0, next; first < tokens; first = next) {
        const std::int32_t s = slots[static_cast<std::size_t>(first)];
        for (next = first + 1; next < tokens && slots[static_cast<std::size_t>(next)] == s;) next++;
        if (s >= 0) groups.push_back({s, first, next - first});
    }
}

LoraPlan::LoraPlan(std::vector<LoraLayer> given) : layers(std::move(given)) {
    if (layers.empty()) throw std::invalid_argument("there are no layers");
    slots = static_cast<std::int64_t>(layers[0].start.size());
    for (const LoraLayer& layer : layers) {
        const std::int64_t rows = layer.a.shape.at(0);
        if (layer.b.shape.at(0) != rows || layer.a.shape.at(1) != layers[0].a.shape.at(1) ||
            layer.a.dtype != layers[0].a.dtype || layer.b.dtype != layer.a.dtype)
            throw std::invalid_argument("the pools do not fit each other");
        if (static_cast<std::int64_t>(layer.start.size()) != slots || layer.rank.size() != layer.start.size())
            throw std::invalid_argument("a list has another length than the slots");
        for (std::size_t s = 0; s < layer.start.size(); s++)
            if (layer.start[s] < 0 || layer.rank[s] < 0 || layer.start[s] + std::int64_t{layer.rank[s]} > rows)
                throw std::out_of_range("the rows of slot " + std::to_string(s) + " do not exist");
    }
}

bool LoraPlan::fits(const Array& weight) const {
    const Array &a = layers[0].a, &b = layers[0].b;
    return layers.size() == 1 && layers[0].column == 0 && a.dtype == weight.dtype && a.shape[1] == weight.shape[1] &&
           b.shape[1] == weight.shape[0];
}

void LoraPlan::add(const LoraRows& rows, std::uintptr_t x_address, std::uintptr_t y_address, std::int64_t stride) const {
    const std::int64_t width = layers[0].a.shape[1];
    Array x = layers[0].a, y = layers[0].a;  // for their dtype
    x.data = reinterpret_cast<char*>(x_address);
    y.data = reinterpret_cast<char*>(y_address);
    // Everything below is kept from call to call: an allocation a layer and step would cost more than small batches.
    static thread_local std::vector<Run> runs;
    static thread_local std::vector<std::int64_t> places;  // of each run's sums: [tokens, rank], true ranks side by side
    static thread_local std::vector<Tile> shrinks, expands;
    static thread_local std::vector<float> sums;
    runs.clear();
    places.clear();
    shrinks.clear();
    expands.clear();
    runs.reserve(rows.groups.size() * layers.size());  // tiles point into it
    std::int64_t place = 0, widest = 0;
    for (std::size_t part = 0; part < layers.size(); part++) {
        const LoraLayer& layer = layers[part];
        widest = std::max(widest, layer.b.shape[1]);
        for (const auto& [slot, first, tokens] : rows.groups) {
            if (slot >= slots) throw std::out_of_range("slot " + std::to_string(slot) + " does not exist");
            const std::int64_t rank = layer.rank[static_cast<std::size_t>(slot)];
            if (rank == 0) continue;
            runs.push_back({first, tokens, layer.start[static_cast<std::size_t>(slot)], rank});
            places.push_back(place);
            place += tokens * rank;
            tile(shrinks, runs.back(), rank, TILE_RANKS, rank, part);
            tile(expands, runs.back(), layer.b.shape[1], MANY_COLUMNS, TILE_COLUMNS, part);
        }
    }
    sums.resize(static_cast<std::size_t>(place));
    const Run* first_run = runs.data();
    const std::int64_t* first_place = places.data();
    float* all_sums = sums.data();
    const auto sums_of = [=](const Run* run, std::int64_t token) {
        return all_sums + first_place[run - first_run] + token * run->rank;
    };
    const Tile *shrink = shrinks.data(), *expand = expands.data();
    for_each_task(static_cast<std::int64_t>(shrinks.size()), worth_threads(runs, width), [&](std::int64_t i) {
        const auto& [run, token, tokens, begin, count, part] = shrink[i];
        shrink_tile(
            x, width, run->first + token, tokens, layers[part].a, run->start + begin, count, width,
            sums_of(run, token) + begin, run->rank);
    });
    for_each_task(static_cast<std::int64_t>(expands.size()), worth_threads(runs, widest), [&](std::int64_t i) {
        const auto& [run, token, tokens, begin, count, part] = expand[i];
        const LoraLayer& layer = layers[part];
        const std::int64_t at = (run->first + token) * stride + layer.column + begin;
        expand_tile(
            y, at, stride, tokens, sums_of(run, token), run->rank, layer.b, run->start, run->rank,
            layer.b.shape[1], begin, count);
    });
}

}  // namespace graftwork
