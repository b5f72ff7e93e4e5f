// What bind.cpp takes from bind_lines.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include "builder.h"

namespace w2v::text {

pybind11::dict labelled_lines(Builder& builder, const std::string& label_prefix);
void bind_lines(pybind11::module_& m);

}  // namespace w2v::text
