"""A plain torch trainer and vLLM in one program: after each step, vLLM samples with the new weights.

pip install '.[vllm]'; python docs/examples/vllm_weights.py MODEL_FOLDER
"""

import sys
from functools import partial

import torch
from transformers import AutoModelForCausalLM
from vllm import LLM, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import ModuleSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from spo.vllm_plugin import SpoTrainerInit


class Client:
    """Reaches vLLM by calls; `vllm.distributed.weight_transfer.clients` has others, over HTTP and Ray."""

    def __init__(self, llm: LLM) -> None:
        for name in ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"):
            setattr(self, name, partial(self.call, llm, name))

    def call(self, llm: LLM, name: str, *arguments: object) -> None:
        """Calls every worker of vLLM; only the client has a use for the finished version's name."""
        llm.collective_rpc(name, args=() if name == "finish_weight_update" else arguments)


folder = sys.argv[1]
transfer = WeightTransferConfig(backend="spo")
llm = LLM(folder, dtype="float32", skip_tokenizer_init=True, weight_transfer_config=transfer, enforce_eager=True)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
sender = WeightTransferTrainerFactory.trainer_init(
    SpoTrainerInit(rank=0), client=Client(llm), source=ModuleSource(model)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
tokens = torch.full((1, 16), 7)  # what it shall repeat
for step in range(20):
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    sender.send_weights()
    llm.reset_prefix_cache()
    sampling = SamplingParams(temperature=0, max_tokens=8, detokenize=False)
    (output,) = llm.generate({"prompt_token_ids": [7, 7, 7]}, sampling, use_tqdm=False)
    print(f"after step {step + 1}: {list(output.outputs[0].token_ids)}")
sender.shutdown()
