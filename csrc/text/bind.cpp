// The Python face of the corpus builder: w2v_ext._text. Every call that touches text releases the GIL; it is taken
// back at most every 50 ms, to look for signals and to report progress. Messages are worded in w2v_ext/corpus.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <charconv>
#include <climits>
#include <cstring>

#include "bind_lines.h"
#include "bind_counts.h"
#include "bind_rows.h"
#include "builder.h"
#include "tick.h"

namespace py = pybind11;
using namespace w2v::text;

namespace {

Mode mode_of(const std::string& name) {
  if (name == "whitespace") return Mode::kWhitespace;
  if (name == "word") return Mode::kWord;
  if (name == "char") return Mode::kChar;
  if (name == "items") return Mode::kItems;
  if (name == "ascii") return Mode::kAscii;
  throw py::value_error("tokenizer: expected whitespace, word, char, items or ascii, got " + name);
}

std::unique_ptr<Builder> make_builder(const std::string& tokenizer, bool lowercase, bool replace_errors,
                                      unsigned threads, const std::string& spill_path, size_t block_bytes,
                                      size_t max_token_bytes, size_t spill_after) {
  if (threads < 1 || threads > 1024) throw py::value_error("threads: expected 1 to 1024");
  if (block_bytes < 7) throw py::value_error("block_bytes: expected at least 7");
  if (max_token_bytes < 16) throw py::value_error("max_token_bytes: expected at least 16");  // the fast path: no check
  BuilderOptions options;
  options.tokenizer = {mode_of(tokenizer), lowercase, replace_errors, max_token_bytes};
  options.threads = threads;
  options.block_bytes = block_bytes;
  options.spill_path = spill_path;
  options.spill_after = spill_after;
  return std::make_unique<Builder>(std::move(options));
}

void feed(Builder& builder, const py::buffer& data) {
  const py::buffer_info info = data.request();
  const size_t n = static_cast<size_t>(info.size * info.itemsize);
  const py::gil_scoped_release unlocked;
  builder.feed({static_cast<const uint8_t*>(info.ptr), n});
}

// One line of decimal numbers a row; negative numbers are padding. Returns how many numbers there were.
uint64_t feed_rows(Builder& builder, const py::array_t<int64_t, py::array::c_style>& rows) {
  if (rows.ndim() != 2) throw py::value_error("rows: expected a 2-D array");
  const int64_t* p = rows.data();
  const py::ssize_t height = rows.shape(0), width = rows.shape(1);
  const py::gil_scoped_release unlocked;
  std::vector<char> text;
  uint64_t items = 0;
  for (py::ssize_t r = 0; r < height; ++r) {
    text.resize(static_cast<size_t>(width) * 20 + 1);
    char* to = text.data();
    for (py::ssize_t c = 0; c < width; ++c, ++p) {
      if (*p < 0) continue;
      to = std::to_chars(to, to + 19, *p).ptr;
      *to++ = '\t';
      ++items;
    }
    *to++ = '\n';
    builder.feed({reinterpret_cast<const uint8_t*>(text.data()), static_cast<size_t>(to - text.data())});
  }
  return items;
}

py::dict make_vocabulary(Builder& builder, int64_t min_count, std::optional<int64_t> max_vocab,
                         const std::vector<std::string>& specials) {
  Vocabulary v;
  {
    const py::gil_scoped_release unlocked;
    v = builder.make_vocabulary(min_count, max_vocab.value_or(INT32_MAX), specials);
  }
  py::list words(v.words.size());
  for (size_t i = 0; i < v.words.size(); ++i) words[i] = py::str(v.words[i]);
  py::dict result;
  result["words"] = words;
  result["counts"] = py::array_t<int64_t>(static_cast<py::ssize_t>(v.counts.size()), v.counts.data());
  result["largest_count"] = v.largest_count;
  result["distinct_words"] = builder.distinct_words();
  result["raw_words"] = builder.raw_words();
  result["replacements"] = builder.replacements();
  result["dropped_tokens"] = builder.dropped_tokens();
  result["source_words"] = builder.source_words();
  return result;
}

py::dict write_ids(Builder& builder, const std::string& path, uint64_t max_line_tokens, uint64_t split_tokens) {
  Written w;
  {
    const py::object nothing = py::none();
    const Tick tick = tick_for(nothing);
    const py::gil_scoped_release unlocked;
    w = builder.write_ids(path, max_line_tokens, split_tokens, tick);
  }
  py::dict result;
  result["num_tokens"] = w.tokens;
  result["num_sentences"] = w.sentences;
  result["longest_sentence"] = w.longest_sentence;
  return result;
}

}  // namespace

PYBIND11_MODULE(_text, m) {
  m.doc() = "Tokenise, count and encode text; see w2v_ext.corpus.";
  m.attr("UNICODE_VERSION") = kUnicodeVersion;
  m.attr("MAX_TOKEN_BYTES") = TokenizerOptions().max_token_bytes;
  bind_rows(m);
  bind_lines(m);
  bind_counts(m);

  static py::exception<SourceError> text_error(m, "TextError", PyExc_ValueError);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const SourceError& e) {
      const char* kind = e.what.kind == InputError::kInvalidUtf8 ? "utf8" : "token";
      const py::tuple args = py::make_tuple(kind, e.source, e.what.offset, static_cast<int>(e.what.byte));
      PyErr_SetObject(text_error.ptr(), args.ptr());
    } catch (const FileError& e) {
      errno = e.errno_code;
      PyErr_SetFromErrnoWithFilename(PyExc_OSError, e.path.c_str());
    }
  });

  py::class_<Builder>(m, "Builder")
      .def(py::init(&make_builder), py::kw_only(), py::arg("tokenizer"), py::arg("lowercase") = false,
           py::arg("replace_errors") = false, py::arg("threads") = 1, py::arg("spill_path"),
           py::arg("block_bytes") = BuilderOptions().block_bytes,
           py::arg("max_token_bytes") = TokenizerOptions().max_token_bytes,
           py::arg("spill_after") = BuilderOptions().spill_after)
      .def("begin_source", &Builder::begin_source, py::arg("name"))
      .def("feed", &feed, py::arg("data"))
      .def("feed_rows", &feed_rows, py::arg("rows"))
      .def(
          "read_fd",
          [](Builder& b, int fd, const py::object& progress) {
            const Tick tick = tick_for(progress);
            const py::gil_scoped_release unlocked;
            b.read_fd(fd, tick);
          },
          py::arg("fd"), py::arg("progress") = py::none())
      .def("end_source", &Builder::end_source, py::call_guard<py::gil_scoped_release>())
      .def("labelled_lines", &labelled_lines, py::arg("label_prefix"))
      .def("make_vocabulary", &make_vocabulary, py::arg("min_count"), py::arg("max_vocab"), py::arg("specials"))
      .def("write_ids", &write_ids, py::arg("path"), py::arg("max_line_tokens"), py::arg("split_tokens"));
}
