// Labelled text, as fastText reads it: a line is an example, tokens that begin with the prefix are its labels, all
// others its words, and each line ends with the word "</s>". The builder has cut, counted and encoded the tokens as for
// a corpus; here its codes become the words and labels of each line, empty lines included. Every code is read once, and
// looked up in one 4-byte table.
#include <algorithm>
#include <climits>
#include <stdexcept>

#include "builder.h"
#include "subwords.h"

namespace w2v::text {

LabelledLines Builder::labelled_lines(const std::string& label_prefix) {
  Vocabulary all = make_vocabulary(1, INT32_MAX, {});
  LabelledLines result;
  // place[id]: in words, or -1 - place in labels
  std::vector<int32_t> place(all.words.size());
  int64_t end_place = -1;
  for (size_t i = 0; i < all.words.size(); ++i) {
    const bool is_label = all.words[i].starts_with(label_prefix);
    std::vector<std::string>& names = is_label ? result.labels : result.words;
    (is_label ? result.label_counts : result.word_counts).push_back(all.counts[i]);
    const auto at = static_cast<int32_t>(names.size());
    if (!is_label && all.words[i] == kEndOfSentence) end_place = at;
    place[i] = is_label ? -1 - at : at;
    names.push_back(std::move(all.words[i]));
  }
  if (end_place < 0) {
    end_place = static_cast<int64_t>(result.words.size());
    result.words.emplace_back(kEndOfSentence);
    result.word_counts.push_back(0);
  }
  for (Worker& w : workers_)
    for (int32_t& id : w.final_id)
      if (id >= 0) id = place[id];  // the first entry is not that of a word

  const auto end_token = static_cast<int32_t>(end_place);
  size_t open_tokens = 0, open_labels = 0;  // where the line that is being read begins
  const auto end_line = [&] {
    result.tokens.push_back(end_token);
    result.ends.push_back(static_cast<int64_t>(open_tokens = result.tokens.size()));
    result.label_ends.push_back(static_cast<int64_t>(open_labels = result.line_labels.size()));
  };
  result.tokens.reserve(raw_words() + 16);
  result.source_lines.resize(sources_.size());
  std::vector<uint16_t> buffer;
  for (size_t e = 0; e < encoded_.size(); ++e) {
    const Encoded& block = encoded_[e];
    const uint16_t* code = load(block, buffer);
    const int32_t* const final_id = workers_[block.worker].final_id.data();
    const bool last = e + 1 == encoded_.size() || encoded_[e + 1].source != block.source;
    const size_t lines_before = result.ends.size();
    for (const uint16_t* const end = code + block.count; code < end;) {
      uint32_t c = *code++;
      if (c == 0) {
        // The builder ends every source with a line break: behind a text that has one, no line follows.
        const bool empty = result.tokens.size() == open_tokens && result.line_labels.size() == open_labels;
        if (!(empty && last && code == end)) end_line();
        continue;
      }
      if (c & 0x8000) [[unlikely]]
        c = (c & 0x7FFF) << 16 | *code++;
      const int32_t id = final_id[c];
      if (id >= 0) {
        result.tokens.push_back(id);
      } else {
        result.line_labels.push_back(-1 - id);
      }
    }
    result.source_lines[block.source] += static_cast<int64_t>(result.ends.size() - lines_before);
  }

  // "</s>" stands where its count puts it, as every other word does.
  result.word_counts[end_place] += static_cast<int64_t>(result.ends.size());
  size_t to = end_place;
  const int64_t count = result.word_counts[end_place];
  while (to > 0 && (result.word_counts[to - 1] < count ||
                    (result.word_counts[to - 1] == count && result.words[to - 1] > result.words[end_place])))
    --to;
  if (to < static_cast<size_t>(end_place)) {
    std::rotate(result.words.begin() + to, result.words.begin() + end_place, result.words.begin() + end_place + 1);
    std::rotate(result.word_counts.begin() + to, result.word_counts.begin() + end_place,
                result.word_counts.begin() + end_place + 1);
    for (int32_t& token : result.tokens) {
      if (token == end_token) {
        token = static_cast<int32_t>(to);
      } else if (token >= static_cast<int32_t>(to) && token < end_token) {
        ++token;
      }
    }
  }
  return result;
}

}  // namespace w2v::text
