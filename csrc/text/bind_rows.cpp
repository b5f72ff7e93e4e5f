// The Python face of rows.h and subwords.h, part of w2v_ext._text. Parsing and formatting release the GIL, so that a
// thread pool runs several blocks at once; words cross as bytes, and are decoded in w2v_ext/formats/rows.py.
#include "bind_rows.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "rows.h"
#include "subwords.h"

namespace py = pybind11;

namespace w2v::text {

namespace {

std::string_view view(const py::buffer_info& info) {
  return {static_cast<const char*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

const char* name_of(RowFault fault) {
  switch (fault) {
    case RowFault::kNone:
      break;
    case RowFault::kFields:
      return "fields";
    case RowFault::kNumber:
      return "number";
    case RowFault::kNotFinite:
      return "not finite";
    case RowFault::kNoWord:
      return "no word";
    case RowFault::kPartial:
      return "partial";
  }
  return "";
}

// (words, values (rows, D), bytes used, fault, detail, field); a row that is not finite has its word, but no values.
template <class T>
py::tuple to_python(Rows<T>&& rows, int64_t dim) {
  py::list words(rows.words.size());
  for (size_t i = 0; i < rows.words.size(); ++i) words[i] = py::bytes(rows.words[i].data(), rows.words[i].size());
  auto* held = new std::vector<T>(std::move(rows.values));
  const py::capsule owner(held, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  const py::array_t<T> values({static_cast<py::ssize_t>(rows.count), static_cast<py::ssize_t>(dim)}, held->data(),
                              owner);
  return py::make_tuple(words, values, rows.used, name_of(rows.fault), rows.detail, py::bytes(rows.field));
}

template <class T>
py::tuple parse_text(const py::buffer& block, const RowOptions& options) {
  const py::buffer_info info = block.request();
  Rows<T> rows;
  {
    const py::gil_scoped_release unlocked;
    rows = parse_text_rows<T>(view(info), options);
  }
  return to_python(std::move(rows), options.dim);
}

RowOptions options_of(int64_t dim, int64_t limit, bool has_word) {
  if (dim < 1) throw py::value_error("dim: expected a number >= 1");
  return {dim, limit, has_word};
}

std::vector<std::string_view> views_of(const py::list& words) {
  std::vector<std::string_view> views;
  views.reserve(words.size());
  for (const py::handle word : words) views.push_back(word.cast<std::string_view>());
  return views;
}

py::bytes format_rows(const py::list& words, const py::array_t<float, py::array::c_style>& values,
                      const std::string& separator) {
  if (values.ndim() != 2 || separator.size() != 1)
    throw py::value_error("values, separator: expected (V, D), one byte");
  if (!words.empty() && static_cast<py::ssize_t>(words.size()) != values.shape(0))
    throw py::value_error("words: expected as many as values has rows");
  const std::vector<std::string_view> views = views_of(words);
  const float* const data = values.data();
  const py::ssize_t rows = values.shape(0), dim = values.shape(1);
  std::string text;
  {
    const py::gil_scoped_release unlocked;
    text = format_text_rows(views, data, rows, dim, separator[0]);
  }
  return py::bytes(text);
}

py::tuple subwords(const py::list& words, int32_t min_n, int32_t max_n, uint32_t buckets) {
  const std::vector<std::string_view> views = views_of(words);
  std::vector<int64_t> ids, ends;
  {
    const py::gil_scoped_release unlocked;
    ends.reserve(views.size());
    std::string padded;
    for (const std::string_view word : views) {
      if (word != kEndOfSentence) {
        padded.assign("<").append(word).append(">");
        append_subwords(padded, {min_n, max_n, buckets}, ids);
      }
      ends.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  return py::make_tuple(py::array_t<int64_t>(static_cast<py::ssize_t>(ids.size()), ids.data()),
                        py::array_t<int64_t>(static_cast<py::ssize_t>(ends.size()), ends.data()));
}

// Row i: the mean of matrix[ids[ends[i-1]:ends[i]]]; summed in order in float32 and multiplied by 1/n, as fastText
// does.
py::array_t<float> mean_rows(const py::array_t<float, py::array::c_style>& matrix,
                             const py::array_t<int64_t, py::array::c_style>& ids,
                             const py::array_t<int64_t, py::array::c_style>& ends) {
  if (matrix.ndim() != 2) throw py::value_error("matrix: expected shape (N, D)");
  const py::ssize_t rows = ends.size(), dim = matrix.shape(1);
  py::array_t<float> result({rows, dim});
  float* to = result.mutable_data();
  const float* const from = matrix.data();
  const int64_t *const id = ids.data(), *const end = ends.data();
  for (py::ssize_t i = 0; i < ids.size(); ++i)
    if (id[i] < 0 || id[i] >= matrix.shape(0)) throw py::index_error("ids: expected rows of matrix");
  for (py::ssize_t r = 0; r < rows; ++r)
    if (end[r] < (r ? end[r - 1] : 0) || end[r] > ids.size())
      throw py::index_error("ends: expected rising ends of ids");
  const py::gil_scoped_release unlocked;
  for (py::ssize_t r = 0; r < rows; ++r, to += dim) {
    std::fill(to, to + dim, 0.0f);
    const int64_t begin = r ? end[r - 1] : 0;
    for (int64_t i = begin; i < end[r]; ++i) {
      const float* const row = from + id[i] * dim;
      for (py::ssize_t d = 0; d < dim; ++d) to[d] += row[d];
    }
    if (end[r] == begin) continue;
    const float scale = static_cast<float>(1.0 / static_cast<double>(end[r] - begin));
    for (py::ssize_t d = 0; d < dim; ++d) to[d] *= scale;
  }
  return result;
}

py::array finish(GrowingBuffer& buffer, const py::dtype& dtype) {
  const auto [data, size] = buffer.release();
  const py::capsule owner(data ? data : std::malloc(1), [](void* p) { std::free(p); });
  return py::array(dtype, {static_cast<py::ssize_t>(size) / dtype.itemsize()}, {dtype.itemsize()}, data, owner);
}

}  // namespace

void bind_rows(py::module_& m) {
  m.def(
      "parse_text_rows",
      [](const py::buffer& block, int64_t dim, int64_t limit, bool has_word, bool wide) {
        const RowOptions options = options_of(dim, limit, has_word);
        return wide ? parse_text<double>(block, options) : parse_text<float>(block, options);
      },
      py::arg("block"), py::arg("dim"), py::kw_only(), py::arg("limit"), py::arg("has_word") = true,
      py::arg("wide") = false);
  m.def(
      "parse_binary_rows",
      [](const py::buffer& block, int64_t dim, int64_t limit) {
        const RowOptions options = options_of(dim, limit, true);
        const py::buffer_info info = block.request();
        Rows<float> rows;
        {
          const py::gil_scoped_release unlocked;
          rows = parse_binary_rows(view(info), options);
        }
        return to_python(std::move(rows), dim);
      },
      py::arg("block"), py::arg("dim"), py::kw_only(), py::arg("limit"));
  m.def("count_numbers", [](const py::buffer& line) { return count_numbers(view(line.request())); }, py::arg("line"));
  m.def("format_text_rows", &format_rows, py::arg("words"), py::arg("values"), py::arg("separator") = " ");
  m.def("subwords", &subwords, py::arg("words"), py::kw_only(), py::arg("min_n"), py::arg("max_n"), py::arg("buckets"));
  m.def("mean_rows", &mean_rows, py::arg("matrix"), py::arg("ids"), py::arg("ends"));
  py::class_<GrowingBuffer>(m, "GrowingBuffer")
      .def(py::init<>())
      .def(
          "append",
          [](GrowingBuffer& buffer, const py::buffer& data) {
            const py::buffer_info info = data.request();
            const py::gil_scoped_release unlocked;
            buffer.append(info.ptr, static_cast<size_t>(info.size * info.itemsize));
          },
          py::arg("data"))
      .def("finish", &finish, py::arg("dtype"));
}

}  // namespace w2v::text
