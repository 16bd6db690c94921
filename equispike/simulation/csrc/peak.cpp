// What a machine can do at best: additions of numbers that lie one after the other. Built once per instruction set.
#include "vectors.h"

namespace equispike {
namespace EQUISPIKE_ISA {

float add_up(const float *from, std::size_t count, int repeats) {
  constexpr int L = lanes<float>, chains = 8;  // enough additions at a time to hide how long each takes
  Vector<float> sum[chains] = {};
  for (int r = 0; r < repeats; ++r) {
    for (std::size_t i = 0; i + chains * L <= count; i += chains * L) {
      for (int k = 0; k < chains; ++k) sum[k] += load(from + i + k * L);
    }
  }
  float total = 0;
  for (int k = 0; k < chains; ++k) {
    for (int lane = 0; lane < L; ++lane) total += sum[k][lane];
  }
  return total;
}

}  // namespace EQUISPIKE_ISA
}  // namespace equispike
