"""How to load what was exported, in one line of Python."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from pkedit.export.naming import PublicName, public_name
from pkedit.models.formats import DEQUANTISED
from pkedit.models.loading import conversion_folder

TRANSFORMERS = "from transformers import AutoModelForCausalLM"
BITS = {
    "4bit": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
    "8bit": "BitsAndBytesConfig(load_in_8bit=True)",
}


@dataclass(frozen=True)
class BaseModel:
    """The base of an edit as it has to be loaded: `model` as `load_model` takes it, `dtype` of its plain weights.

    `local`: whether `model` is known to be a path, whatever it looks like from here.
    """

    model: str
    dtype: str
    quantisation: str | None = None
    trust_remote_code: bool = False
    local: bool = False

    @property
    def public(self) -> PublicName:
        """What it is called outside of this machine."""
        return public_name(self.model, local=self.local)

    @property
    def known_as(self) -> str:
        """The name by which pkedit loads it, without the folders of this machine."""
        return self.model if self.model == "smollm2" else self.public.text


def load_line(form: str, place: str, base: BaseModel, *, public: bool = False, on_hub: bool = False) -> str:
    """One line that gives the edited model.

    Args:
        form: `full`, `adapter` or `delta`.
        place: the folder or repository.
        base: what the edit is for.
        public: whether the line leaves this machine, so that it must not hold its paths.
        on_hub: whether `place` is a repository.
    """
    if form == "full":
        code = f", trust_remote_code={base.trust_remote_code}" if base.trust_remote_code else ""
        return f'{TRANSFORMERS}; model = AutoModelForCausalLM.from_pretrained("{place}"{code})'
    if form == "delta":
        return _delta_line(place, base, public=public, on_hub=on_hub)
    imports, expression = _by_transformers(base, public=public)
    return f'from peft import PeftModel; {imports}; model = PeftModel.from_pretrained({expression}, "{place}")'


def _delta_line(place: str, base: BaseModel, *, public: bool, on_hub: bool) -> str:
    name = base.known_as if public else base.model
    options = f', quantisation="{base.quantisation}"' if base.quantisation else f', dtype="{base.dtype}"'
    chat = f'chat = pkedit.load_model("{name}"{options})'
    imports = "import pkedit; from pkedit.edit.delta import Delta"
    delta = f'Delta.load("{place}/delta.safetensors")'
    if on_hub:
        imports += "; from huggingface_hub import hf_hub_download"
        delta = f'Delta.load(hf_hub_download("{place}", "delta.safetensors"))'
    # Nothing can be written to quantised weights; the edit acts beside them.
    act = f"with {delta}.applied_to(chat): ..." if base.quantisation else f"{delta}.apply(chat)"
    return f"{imports}; {chat}; {act}"


def _by_transformers(base: BaseModel, *, public: bool) -> tuple[str, str]:
    """The imports and the expression that give the base."""
    if base.model == "smollm2" and public:
        return "import pkedit", f'pkedit.load_model("smollm2", dtype="{base.dtype}").model'
    model = str(conversion_folder()) if base.model == "smollm2" else base.model
    imports, options = TRANSFORMERS, [f'dtype="{base.dtype}"']
    name, path = base.public.text if public else model, Path(model).expanduser()
    if path.suffix == ".gguf":
        name = "FOLDER" if public else str(path.parent)
        options.append(f'gguf_file="{path.name}"')
    else:
        kind = _dequantised(model)
        if kind is not None:
            imports += f", {kind}"
            options.append(f"quantization_config={kind}(dequantize=True)")
    if base.quantisation is not None:
        imports += ", BitsAndBytesConfig"
        options = [f"quantization_config={BITS[base.quantisation]}"]
    if base.trust_remote_code:
        options.append("trust_remote_code=True")
    return imports, f'AutoModelForCausalLM.from_pretrained("{name}", {", ".join(options)})'


def _dequantised(model: str) -> str | None:
    """The class that makes plain weights of this checkpoint at load; None where they are plain, or stay quantised."""
    entry = PretrainedConfig.get_config_dict(str(Path(model).expanduser()))[0].get("quantization_config") or {}
    kind = DEQUANTISED.get(str(entry.get("quant_method")))
    return None if kind is None else str(kind.__name__)
