"""Private training without Flower: the biases and the head of a small network, on made-up data.

The test records are public: they check the gradients, and say how training goes.
"""

import torch
from torch import nn
from torch.nn import functional

import dpbitfit

torch.manual_seed(0)
features = torch.randn(2500, 20)  # 2,000 private records, then 500 public ones
labels = (features[:, :5].sum(dim=1) > 0).long()
model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 2))


def loss(model: nn.Module, indices: list[int]) -> torch.Tensor:
    """The loss of each record."""
    return functional.cross_entropy(model(features[indices]), labels[indices], reduction="none")


trainer = dpbitfit.PrivateTrainer(
    model,
    loss,
    2000,
    probes=range(2000, 2008),
    declared_size=2000,
    train_also=["2.weight"],
    target_epsilon=3.0,
    steps=60,
    optimizer=dpbitfit.Adam(learning_rate=0.05),
)
for step in trainer:
    if step % 20 == 0:
        with torch.no_grad():
            public = loss(model, list(range(2000, 2500))).mean().item()
        print(f"step {step}: loss {public:.3f}")
print(f"epsilon {trainer.epsilon:.3f} at delta 1e-5")
