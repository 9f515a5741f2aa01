"""Greedy answers of a saved model by vLLM: the same prompts, token by token, as with transformers, and faster.

vLLM loads ordinary model folders, so an edited model is exported first: whole, or as an adapter that acts where it is
asked to. It is written for the interface of vLLM 0.10 (`LLM.generate` on prompts of token ids, `LoRARequest`) and was
tested with a stand-in for it, not with vLLM itself.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from pkedit.errors import ModelLoadError, first_line
from pkedit.models.loading import config_source
from pkedit.models.refused import check_config
from pkedit.models.templates import read_template, templated_ids
from pkedit.models.vllm_adapter import vllm_adapter


class VllmEngine:
    """A model in vLLM. `reason` says how it was loaded."""

    def __init__(
        self,
        name: str,
        *,
        dtype: str | None = None,
        chat_template: str | Path | None = None,
        trust_remote_code: bool = False,
        adapter: str | Path | None = None,
    ) -> None:
        """Loads the model.

        Args:
            name: a Hub id or a model folder.
            dtype: `float32`, `bfloat16` or `float16`; what vLLM takes for the checkpoint if absent.
            chat_template: a Jinja file for a tokenizer that has none.
            trust_remote_code: whether code that the model brings with it may run on this machine.
            adapter: a PEFT adapter's folder, for what is generated `edited`. vLLM keeps it in the model's dtype.

        Raises:
            ModelLoadError: vLLM is not installed, or does not load the model; or `adapter` is none that it can apply.
            ChatTemplateError: no chat template and none given, or the given file is missing.
        """
        try:
            import vllm
        except ImportError as error:
            raise ModelLoadError(
                f"--engine vllm needs vLLM ({first_line(error)}); run: pip install 'pkedit[vllm]'"
            ) from error
        source, extra = config_source(name)
        if "gguf_file" in extra:
            raise ModelLoadError(
                f"{name} is a GGUF file; --engine vllm takes a model folder, as pkedit export writes it"
            )
        self.name = name
        self._vllm: Any = vllm
        self._adapter: Any = None
        lora: dict[str, Any] = {}
        if adapter is not None:
            # Kept as long as the engine, which reads it when it is first asked for.
            self._folder = tempfile.TemporaryDirectory(prefix="pkedit-adapter-")
            lora = {"enable_lora": True, "max_lora_rank": vllm_adapter(adapter, Path(self._folder.name))}
            from vllm.lora.request import LoRARequest

            self._adapter = LoRARequest("pkedit", 1, self._folder.name)
        try:
            config = PretrainedConfig.get_config_dict(source)[0]
            check_config(name, config, trust_remote_code=trust_remote_code, quantisation=None)
            self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            self._model = self._vllm.LLM(
                model=source,
                tokenizer=source,
                dtype=dtype or "auto",
                trust_remote_code=trust_remote_code,
                seed=0,
                **lora,
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise ModelLoadError(f"vLLM cannot load {name!r}: {first_line(error)}") from error
        if chat_template is not None:
            self._tokenizer.chat_template = read_template(Path(chat_template))
        self.reason = f"vLLM {getattr(vllm, '__version__', 'of unknown version')}, dtype {dtype or 'auto'}"
        if adapter is not None:
            self.reason += f", adapter {Path(adapter).expanduser().resolve().name}"

    def generate(self, texts: Sequence[str], *, max_new_tokens: int, edited: bool = False) -> list[str]:
        """Greedy answers to user messages, in their order; at most `max_new_tokens` tokens each.

        Args:
            texts: the messages.
            max_new_tokens: where an answer is cut.
            edited: whether the adapter acts.

        Raises:
            ChatTemplateError: the tokenizer has no chat template.
            ModelLoadError: vLLM cannot apply the adapter to this model.
        """
        prompts = [{"prompt_token_ids": templated_ids(self._tokenizer, text, name=self.name)} for text in texts]
        # Temperature 0 is greedy. Penalties and the like of the model's own settings do not apply to given ones.
        sampling = self._vllm.SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
        if not edited:
            outputs = self._model.generate(prompts, sampling, use_tqdm=False)
        else:
            try:
                outputs = self._model.generate(prompts, sampling, use_tqdm=False, lora_request=self._adapter)
            except (ValueError, RuntimeError) as error:
                raise ModelLoadError(
                    f"vLLM cannot apply the adapter to {self.name}: {first_line(error)}; save the edited model "
                    "(pkedit export --as full) and name that folder"
                ) from error
        # Decoded here, as answers of any engine are.
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        return [text.strip() for text in self._tokenizer.batch_decode(answers, skip_special_tokens=True)]
