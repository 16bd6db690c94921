// Poisson input spikes, word for word those of functional/coding.py. Built once per instruction set.
#include "kernel.h"

namespace equispike {
namespace {

constexpr int together = 32;  // steps drawn at once; the loops over them become vector instructions

using Words = std::uint32_t[4][together];

// Philox 4x32-10 (Salmon et al., 2011).
void philox(Words &words, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    for (int i = 0; i < together; ++i) {
      const std::uint64_t first = std::uint64_t{words[0][i]} * 0xD2511F53u;
      const std::uint64_t second = std::uint64_t{words[2][i]} * 0xCD9E8D57u;
      words[0][i] = static_cast<std::uint32_t>(second >> 32) ^ words[1][i] ^ k0;
      words[1][i] = static_cast<std::uint32_t>(second);
      words[2][i] = static_cast<std::uint32_t>(first >> 32) ^ words[3][i] ^ k1;
      words[3][i] = static_cast<std::uint32_t>(first);
    }
  }
}

// Spikes of one input in some steps: `train` is its byte in the first of them.
void mark(const std::uint32_t *words, std::int64_t limit, std::uint8_t *train, int bit, std::size_t steps,
          std::size_t bytes) {
  const auto largest = static_cast<std::uint32_t>((limit < 0 ? -limit : limit) - 1);
  std::uint8_t fires[together];
  for (int i = 0; i < together; ++i) fires[i] = static_cast<std::uint8_t>((words[i] <= largest) << bit);
  for (std::size_t i = 0; i < steps; ++i) train[i * bytes] |= fires[i];
}

}  // namespace

namespace EQUISPIKE_ISA {

void draw(const Draw &job, std::size_t image) {
  const std::size_t inputs = job.channels * job.positions, train = job.positions * job.steps * job.bytes;
  const std::int64_t *limits = job.limits + image * inputs;
  std::uint8_t *trains[] = {job.positive + image * train, job.negative + image * train};
  for (std::size_t input = 0; input < inputs; input += 4) {
    const std::size_t own = inputs - input < 4 ? inputs - input : 4;
    bool silent = true;
    for (std::size_t i = 0; i < own; ++i) silent = silent && !limits[input + i];
    if (silent) continue;
    for (std::size_t first = 0; first < job.steps; first += together) {
      const std::size_t steps = job.steps - first < together ? job.steps - first : together;
      Words words;
      for (int i = 0; i < together; ++i) {
        words[0][i] = static_cast<std::uint32_t>(input / 4);
        words[1][i] = job.first_step + static_cast<std::uint32_t>(first) + i;
        words[2][i] = static_cast<std::uint32_t>(job.indices[image]);
        words[3][i] = 0;
      }
      philox(words, job.seed);
      for (std::size_t i = 0; i < own; ++i) {
        const std::int64_t limit = limits[input + i];
        if (!limit) continue;
        const std::size_t channel = (input + i) / job.positions, position = (input + i) % job.positions;
        std::uint8_t *byte = trains[limit < 0] + (position * job.steps + first) * job.bytes + channel / 8;
        mark(words[i], limit, byte, static_cast<int>(channel % 8), steps, job.bytes);
      }
    }
  }
}

}  // namespace EQUISPIKE_ISA
}  // namespace equispike
