// graftwork.kernels._native: the native twins, called with addresses that Python has checked, without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "layers.h"
#include "native.h"

namespace py = pybind11;

PYBIND11_MODULE(_native, m) {
    using namespace graftwork;
    using NoGil = py::call_guard<py::gil_scoped_release>;

    py::class_<Array>(m, "Array")
        .def(
            py::init<std::uintptr_t, const std::string&, std::vector<std::int64_t>>(),
            py::arg("address"),
            py::arg("dtype"),
            py::arg("shape"))
        .def(
            py::init([](const py::array& array, const std::string& dtype) {
                const std::vector<std::int64_t> shape(array.shape(), array.shape() + array.ndim());
                return Array(reinterpret_cast<std::uintptr_t>(array.data()), dtype, shape);
            }),
            py::arg("array"),
            py::arg("dtype"))
        .def("rows", &Array::rows, py::arg("begin"), py::arg("end"));

    m.def("weighted_sum", &weighted_sum, NoGil());
    m.def("magnitude_histogram", &magnitude_histogram, NoGil());
    m.def("magnitudes_between", &magnitudes_between, NoGil());
    m.def("nth_equal", &nth_equal, NoGil());
    m.def("ties_combine", &ties_combine, NoGil());
    m.def("ties_votes", &ties_votes, NoGil());
    m.def("gram", &gram, NoGil());
    m.def("abs_sum", &abs_sum, NoGil());
    m.def("all_finite", &all_finite, NoGil());
    m.def("axis_weighted_sum", &axis_weighted_sum, NoGil());
    m.def("ram_combine", &ram_combine, NoGil());
    m.def("ram_counts", &ram_counts, NoGil());
    m.def("row_gram", &row_gram, NoGil());
    m.def("consensus_combine", &consensus_combine, NoGil());
    m.def("nearswap", &nearswap, NoGil());
    m.def("philox", &philox, NoGil());
    m.def("rank_chances", &rank_chances, NoGil());
    m.def("sparse_combine", &sparse_combine, NoGil());
    m.def("variance", &variance, NoGil());
    m.def("linear", &linear, NoGil());
    m.def("has_fast_linear", &has_fast_linear);
    m.def("rms_norm", &rms_norm, NoGil());
    m.def("gated_product", &gated_product, NoGil());
    m.def("rotary_embedding", &rotary_embedding, NoGil());
    m.def("lora_shrink", &lora_shrink, NoGil());
    m.def("lora_expand", &lora_expand, NoGil());
    m.def("lora_fill", &lora_fill, NoGil());
    m.def("paged_attention", &paged_attention, NoGil());
    m.def("paged_store", &paged_store, NoGil());
    py::class_<LoraRows>(m, "LoraRows").def(py::init<const std::vector<std::int32_t>&>(), py::arg("slots"));
    py::class_<LoraLayer>(m, "LoraLayer")
        .def(
            py::init([](const Array& a, const Array& b, std::vector<std::int32_t> start, std::vector<std::int32_t> rank,
                        std::int64_t column) { return LoraLayer{a, b, std::move(start), std::move(rank), column}; }),
            py::arg("a"),
            py::arg("b"),
            py::arg("start"),
            py::arg("rank"),
            py::arg("column"));
    py::class_<LoraPlan>(m, "LoraPlan")
        .def(py::init<std::vector<LoraLayer>>(), py::arg("layers"))
        .def("add", &LoraPlan::add, NoGil(), py::arg("rows"), py::arg("x"), py::arg("y"), py::arg("stride"));
    py::class_<LinearLayer>(m, "LinearLayer")
        .def(py::init<const Array&, const OptionalArray&>(), py::arg("weight"), py::arg("bias"))
        .def("compute", &LinearLayer::compute, NoGil());
    py::class_<GatedLayers>(m, "GatedLayers")
        .def(py::init<LinearLayer, LinearLayer, LinearLayer, std::string>())
        .def("compute", &GatedLayers::compute, NoGil());
    py::class_<DecoderLayer>(m, "DecoderLayer")
        .def(
            py::init<
                Norm, LinearLayer, LinearLayer, LinearLayer, LinearLayer, std::optional<Norm>, std::optional<Norm>, Norm,
                GatedLayers, float, std::int64_t>(),
            py::arg("before_attention"),
            py::arg("q"),
            py::arg("k"),
            py::arg("v"),
            py::arg("o"),
            py::arg("of_queries"),
            py::arg("of_keys"),
            py::arg("before_feed_forward"),
            py::arg("feed_forward"),
            py::arg("scale"),
            py::arg("window"))
        .def("compute", &DecoderLayer::compute, NoGil());
    py::class_<Step>(m, "Step")
        .def(
            py::init([](const Array& cos, const Array& sin, const Array& pages, const Array& spans) {
                return Step{cos, sin, pages, spans};
            }),
            py::arg("cos"),
            py::arg("sin"),
            py::arg("pages"),
            py::arg("spans"));
    py::class_<DecoderLayers>(m, "DecoderLayers")
        .def(py::init<std::vector<DecoderLayer>>(), py::arg("layers"))
        .def("compute", &DecoderLayers::compute, NoGil());
    m.def("set_threads", &set_threads);
}
