#include "layers.h"

#include <stdexcept>

#include "native.h"

namespace graftwork {
namespace {

// `rows` of `width` elements of the dtype of `like`, at an address.
Array rows_at(std::uintptr_t address, std::int64_t rows, std::int64_t width, const Array& like) {
    Array found = like;
    found.data = reinterpret_cast<char*>(address);
    found.shape = {rows, width};
    found.size = rows * width;
    return found;
}

}  // namespace

LinearLayer::LinearLayer(const Array& weight, const OptionalArray& bias) : weight(weight), bias(bias) {
    if (weight.shape.size() != 2) throw std::invalid_argument("a weight has two dimensions");
    check_sizes(weight.shape[0], bias);
}

void LinearLayer::compute(std::uintptr_t y, std::uintptr_t x, std::int64_t tokens, Added added) const {
    const std::int64_t out = weight.shape[0], width = weight.shape[1];
    const auto [rows, plan] = added;
    if (plan && (!rows || rows->tokens != tokens || !plan->fits(weight)))
        throw std::invalid_argument("the low rank is not one of this layer and its tokens");
    linear(rows_at(y, tokens, out, weight), rows_at(x, tokens, width, weight), weight, bias);
    if (plan) plan->add(*rows, x, y, out);
}

GatedLayers::GatedLayers(LinearLayer gate, LinearLayer up, LinearLayer down, std::string activation)
    : gate(std::move(gate)), up(std::move(up)), down(std::move(down)), activation(std::move(activation)) {
    const Array &g = this->gate.weight, &u = this->up.weight, &d = this->down.weight;
    if (g.shape != u.shape || d.shape[1] != g.shape[0] || g.dtype != u.dtype || g.dtype != d.dtype)
        throw std::invalid_argument("the layers do not fit each other");
}

void GatedLayers::compute(
    std::uintptr_t y,
    std::uintptr_t x,
    std::int64_t tokens,
    Added to_gate,
    Added to_up,
    Added to_down) const {
    // Kept from call to call: fresh memory would be mapped in page by page, and would not be in any cache.
    static thread_local std::vector<Line> opened, raised;
    const std::int64_t inner = gate.weight.shape[0];
    const auto room = [&](std::vector<Line>& lines) {
        const auto wanted = static_cast<std::size_t>((tokens * inner * gate.weight.itemsize() + 63) / 64);
        if (lines.size() < wanted) lines.resize(wanted);
        return reinterpret_cast<std::uintptr_t>(lines.data());
    };
    const Array middle = rows_at(room(opened), tokens, inner, gate.weight);
    const Array factor = rows_at(room(raised), tokens, inner, gate.weight);
    const auto address = [](const Array& array) { return reinterpret_cast<std::uintptr_t>(array.data); };
    gate.compute(address(middle), x, tokens, to_gate);
    up.compute(address(factor), x, tokens, to_up);
    gated_product(middle, middle, factor, activation);
    down.compute(y, address(middle), tokens, to_down);
}

}  // namespace graftwork
