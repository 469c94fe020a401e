"""What a config may hold: a class for each block, with the type, default and description of every setting.

A block whose settings depend on its `type` has a class for each type. What a config leaves out is filled in here and
nowhere else, so that `model_dump` is every setting that a run has.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from utils.columns import columns_of
from utils.keys import flat, value_at
from utils.text import unfit_character

# The names that a config may use. A test holds each list against the registry that it names.
ArchName = Literal["resnet18", "resnet34", "resnet50", "vgg16", "simple_cnn"]  # models.build.MODELS
NormName = Literal[
    "bn", "conv", "bncn", "conv_published", "bncn_published", "gn", "ln", "in", "none"
]  # models.norms.NORMS
ActivationName = Literal["relu", "srelu"]  # models.activations.ACTIVATIONS
DatasetName = Literal[
    "CIFAR10",
    "CIFAR100",
    "SVHN",
    "MNIST",
    "FashionMNIST",
    "STL10",
    "TinyCOCO",
    "TinyExDark",
    "ImageFolder",
    "TinyImageNet",
    "Digits",
]  # data_loader.datasets.DATASETS
PICTURES = ("ImageFolder", "TinyImageNet")  # the datasets of single pictures, which may have a test set of their own
PUBLISHED = ("CIFAR10", "CIFAR100", "SVHN", "MNIST", "FashionMNIST", "STL10")  # those that always have one
MetricName = Literal["accuracy", "top5_accuracy", "ece", "balanced_accuracy"]  # models.metric.METRICS

# What torch computes with: whole numbers of 64 bits, and floats of 32.
LARGEST = 3.4e38
Positive = Annotated[int, Field(gt=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0.0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0.0, le=LARGEST)]


def _fit(text: str) -> str:
    found = unfit_character(text)
    if found is not None:
        raise ValueError(f"must not hold {found}")
    return text


#: What may end in a script, a command line or a log, or name a file: no character of it is an `unfit_character`.
PathText = Annotated[str, AfterValidator(_fit)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class UnknownChoice(ValueError):
    """A text that is none of `choices`."""

    def __init__(self, message: str, choices: Sequence[str]) -> None:
        super().__init__(message)
        self.choices = choices


class _Block(BaseModel):
    """Unknown keys are errors, and types are taken as written: `true` is no number and "1" no integer."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def types_of(annotation: Any) -> list[type[BaseModel]]:
    """The blocks that a field may hold: one, or one for each type of it; none for any other field."""
    choices = [get_args(each)[0] if get_origin(each) is Annotated else each for each in get_args(annotation)]
    return [each for each in choices or [annotation] if isinstance(each, type) and issubclass(each, BaseModel)]


def name_of(block: type[BaseModel]) -> str:
    """The `type` of a block of which there is one for each type; of one for many types, the type that stands for it."""
    return str(block.model_fields["type"].default)


#: Where a config may have null for an argument that is not set, or that the type does not take, as one of earlier code
#: or of another type has.
NULL_IS_UNSET = frozenset(
    {"momentum", "nesterov", "betas", "eps", "milestones", "gamma", "step_size", "T_max", "eta_min"}
    | {"include_true_class", "path", "map", "key"}
)


#: Settings of a machine, its places and what is saved when, on which no result depends.
NO_RESULT_DEPENDS_ON = (
    "name",
    "data_loader.args.in_memory",
    "trainer.device",
    "trainer.keep_freed_memory",
    "trainer.lost_after_minutes",
    "trainer.save_dir",
    "trainer.save_every_minutes",
    "trainer.save_period",
    "trainer.tensorboard",
)


def _without_unset(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    return {key: _without_unset(value) for key, value in block.items() if value is not None or key not in NULL_IS_UNSET}


# Each union has one BeforeValidator: of two on a field, the oldest pydantic that requirements.txt takes drops one.
def _filled(block: Any, **otherwise: Any) -> Any:
    """What is given for a block that has a class for each type, with `otherwise` for what it does not say."""
    return otherwise | _without_unset(block) if isinstance(block, dict) else block


class NoArgs(_Block):
    """Those of a type that takes none."""


class ArchArgs(_Block):
    norm: NormName = Field(
        "bn",
        description="Arm: bn = BatchNorm, conv = ConvNorm alone, bncn = ConvNorm then BatchNorm; conv_published and "
        "bncn_published are what the published experiments ran under those names.",
    )
    activation: ActivationName = Field("relu", description="relu, or srelu: max(x, b) with b learned per channel.")
    num_classes: Positive | None = Field(None, description="Outputs of the network; null takes the dataset's classes.")
    width: Positive = Field(64, description="Channels of the first stage; the last has eight times as many.")


class Arch(_Block):
    type: ArchName = Field("resnet18", description="The network.")
    args: ArchArgs = Field(default_factory=ArchArgs, description="How the network is built.")


LEAST_SIDE, MOST_SIDE = 8, 256  # pixels of an image's side
LIBRARIES = ("torchvision", "timm")
SMALL_IMAGE = 64  # pixels of a side up to which a stem is adapted by default


def _of_a_library(text: str) -> str:
    library, _, name = text.partition("/")
    forms = " or ".join(f"{each}/NAME" for each in LIBRARIES)
    if library not in LIBRARIES:
        raise UnknownChoice(f"must be {forms}, got {text!r}", [f"{each}/{name}" for each in LIBRARIES])
    if not re.fullmatch("[A-Za-z0-9_]+", name):
        plain = name.partition(".")[0]
        tag = f"; networks are untrained, so without a tag: {library}/{plain}" if "." in name and plain else ""
        raise ValueError(f"must be {forms} with letters, digits and _ in NAME, got {text!r}{tag}")
    return text


class LibraryArgs(_Block):
    norm: Literal["bn", "conv", "bncn"] = Field(
        "bn",
        description="Arm: bn = the network as it is, conv = ConvNorm in its convolutions and no BatchNorm behind them, "
        "bncn = ConvNorm in its convolutions.",
    )
    num_classes: Positive | None = Field(None, description="Outputs of the network; null takes the dataset's classes.")
    stem: Literal["small", "own"] | None = Field(
        None,
        description="small: the first convolution has stride 1 and a kernel of 3x3 at most, and a max-pooling behind "
        "it goes; own: as the library has it. null is small for data_loader.args.image_size up to 64, else own.",
    )


class LibraryArch(_Block):
    type: Annotated[str, AfterValidator(_of_a_library)] = Field(
        "torchvision/resnet18",
        description="A network of torchvision's or timm's for classification, untrained.",
        json_schema_extra={"pattern": f"^({'|'.join(LIBRARIES)})/[A-Za-z0-9_]+$"},
    )
    args: LibraryArgs = Field(default_factory=LibraryArgs, description="How the network is built.")


def _kind_of_network(arch: Any) -> str:
    kind = arch.get("type") if isinstance(arch, dict) else getattr(arch, "type", None)
    return "torchvision/resnet18" if isinstance(kind, str) and "/" in kind else "resnet18"


Network = Annotated[
    Annotated[Arch, Tag("resnet18")] | Annotated[LibraryArch, Tag("torchvision/resnet18")],
    Discriminator(_kind_of_network),
]


def network_args(kind: Any) -> type[_Block]:
    """The class of the arguments of a network of that type."""
    return LibraryArgs if _kind_of_network({"type": kind}) == name_of(LibraryArch) else ArchArgs


def noise_settings(kind: Any) -> set[str] | None:
    """The settings of a label noise of that type; None if there is none of it."""
    found = [each for each in types_of(Config.model_fields["label_noise"].annotation) if name_of(each) == kind]
    return set(found[0].model_fields) if found else None


class Augment(_Block):
    crop_padding: Annotated[int, Field(ge=0, le=MOST_SIDE // 2)] = Field(
        4,
        description="Pixels of black border from which a random crop of the image's size is taken; 0 crops nothing. At "
        "most half of image_size, and an eighth of it where it is not set.",
    )
    horizontal_flip: bool = Field(True, description="Mirror each training image with probability one half.")


class DataLoaderArgs(_Block):
    data_dir: PathText = Field("data", description="The folder of the dataset's files, or the file itself.")
    image_size: Annotated[int, Field(ge=LEAST_SIDE, le=MOST_SIDE)] = Field(
        32,
        description="Height and width of the images: others are scaled and cropped to it, except those of a dataset "
        "given from Python.",
    )
    in_memory: bool | None = Field(
        None,
        description="Keep all images in memory. false serves them from a file that is mapped into memory; null does so "
        "where they do not fit.",
    )
    batch_size: Positive = Field(128, description="Images in a training batch.")
    validation_split: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1,
        description="Share of the images held out for validation, test images of the dataset's own not counted; unused "
        "where it has validation images of its own.",
    )
    test_split: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="Share of the images held out for testing where the dataset has no test images of its own."
    )
    subset: float | None = Field(
        None,
        description="Use so many (2000) or such a share (0.1; 1 is all) of those that train and validate; null is all.",
    )
    float_bytes_as_pixels: bool | None = Field(
        None, description="TinyCOCO: take the bytes of its floats for pixels, as published; null is as `protocol` says."
    )
    overlapping_splits: bool | None = Field(
        None,
        description="As published: test on the whole of a dataset that has no test images of its own, and validate on "
        "training images of one that has; null is as `protocol` says.",
    )
    test_subset: float | None = Field(
        None,
        description="Use so many or such a share of the test images, for a faster look at each epoch; null is all.",
    )
    allow_duplicates: bool = Field(
        False, description="Go on where train, validation and test share an image, pixel for pixel."
    )
    skip_broken: bool = Field(
        False,
        description="ImageFolder, TinyImageNet: leave out images that cannot be read, and name them, instead of "
        "stopping.",
    )
    augment: Augment = Field(default_factory=Augment, description="Random changes to training images.")

    @model_validator(mode="before")
    @classmethod
    def _padding_by_size(cls, args: Any) -> Any:
        size, augment = (args.get("image_size"), args.get("augment", {})) if isinstance(args, dict) else (None, None)
        if type(size) is int and LEAST_SIDE <= size <= MOST_SIDE and isinstance(augment, dict):
            return args | {"augment": {"crop_padding": size // 8} | augment}
        return args

    @field_validator("augment")
    @classmethod
    def _padding_within_image(cls, augment: Augment, info: ValidationInfo) -> Augment:
        most = info.data.get("image_size", MOST_SIDE) // 2
        if augment.crop_padding > most:
            raise ValueError(f"crop_padding must be at most {most}, half of image_size, got {augment.crop_padding}")
        return augment

    @field_validator("subset", "test_subset")
    @classmethod
    def _count_or_share(cls, subset: float | None) -> float | None:
        if subset is None or 0.0 < subset <= 1.0 or (subset > 1.0 and subset == int(subset)):
            return subset
        raise ValueError(f"must be a number of images or a share in (0, 1], got {subset}")


class DataLoader(_Block):
    type: DatasetName = Field("CIFAR10", description="The dataset.")
    args: DataLoaderArgs = Field(default_factory=DataLoaderArgs, description="Where it is and how it is served.")


NoiseRate = Annotated[
    Share, Field(description="Share of labels redrawn, from 0 to 1. It does not matter where a file has the labels.")
]
OnValidation = Annotated[bool, Field(description="Put noise on the validation labels as well. Test labels stay true.")]


class SymmetricNoise(_Block):
    type: Literal["symmetric"] = Field("symmetric", description="A wrong label is any other class.")
    rate: NoiseRate = 0.0
    include_true_class: bool | None = Field(
        None,
        description="Draw over all classes, the true one too, so that fewer labels change; null is as `protocol` says, "
        "and false under the clean one.",
    )
    on_validation: OnValidation = True


class AsymmetricNoise(_Block):
    type: Literal["asymmetric"] = Field("asymmetric", description="A wrong label is the class that looks alike.")
    rate: NoiseRate = 0.0
    on_validation: OnValidation = True
    map: Annotated[dict[PathText, PathText], Field(min_length=1)] | None = Field(
        None, description='The wrong class of each class that has one, {"cat": "dog"}; null is CIFAR10\'s look-alikes.'
    )

    @field_validator("map")
    @classmethod
    def _another(cls, pairs: dict[str, str] | None) -> dict[str, str] | None:
        for name, wrong in (pairs or {}).items():
            if name == wrong:
                raise ValueError(f"gives {name!r} as the wrong class of itself")
        return pairs


class NoiseFile(_Block):
    type: Literal["file"] = Field("file", description="The labels are read from `path`.")
    rate: NoiseRate = 0.0
    on_validation: OnValidation = True
    path: PathText = Field(
        description="An .npz with `index` and `given_label`, such as a run's noise.npz, or an .npz, .npy, .csv or .pt "
        "with a label for each image, in the order of the dataset."
    )
    key: PathText | None = Field(
        None, description="The name of the labels in a file that has several; null is the only one."
    )


class PairFlipNoise(_Block):
    type: Literal["pair_flip"] = Field(
        "pair_flip", description="A wrong label is the next class; the first follows the last."
    )
    rate: NoiseRate = 0.0
    on_validation: OnValidation = True


class InstanceNoise(_Block):
    type: Literal["instance"] = Field(
        "instance", description="Whether and how a label is wrong depends on the image (Xia et al. 2020)."
    )
    rate: NoiseRate = 0.0
    on_validation: OnValidation = True


def _false_is_unset(block: Any) -> Any:
    """Earlier code took `include_true_class: false` with every type."""
    if isinstance(block, dict) and block["type"] != "symmetric" and block.get("include_true_class") is False:
        return {key: value for key, value in block.items() if key != "include_true_class"}
    return block


LabelNoise = Annotated[
    SymmetricNoise | AsymmetricNoise | NoiseFile | PairFlipNoise | InstanceNoise,
    Field(discriminator="type"),
    BeforeValidator(lambda block: _false_is_unset(_filled(block, type="symmetric"))),
]


LearningRate = Annotated[PositiveFloat, Field(description="Learning rate at the start.")]
WeightDecay = Annotated[NotNegative, Field(description="Weight decay; thresholds of srelu take none.")]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class SGDArgs(_Block):
    lr: LearningRate = 0.1
    momentum: Decay = Field(0.0, description="Momentum.")
    weight_decay: WeightDecay = 0.0
    nesterov: bool = Field(False, description="Nesterov's form of the momentum.")

    @field_validator("nesterov")
    @classmethod
    def _nesterov(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0.0:
            raise ValueError("needs a momentum above 0")
        return nesterov


class SGD(_Block):
    type: Literal["SGD"] = Field("SGD", description="Stochastic gradient descent.")
    args: SGDArgs = Field(default_factory=SGDArgs, description="Its arguments.")


class AdamArgs(_Block):
    lr: LearningRate = 0.1
    weight_decay: WeightDecay = 0.0
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="Decay of the two running averages."
    )
    eps: PositiveFloat = Field(1e-8, description="Term added to the denominator.")


class Adam(_Block):
    type: Literal["Adam"] = Field("Adam", description="Adam; its weight decay is part of the gradient.")
    args: AdamArgs = Field(default_factory=AdamArgs, description="Its arguments.")


class AdamW(_Block):
    type: Literal["AdamW"] = Field("AdamW", description="Adam with a weight decay apart from the gradient.")
    args: AdamArgs = Field(default_factory=AdamArgs, description="Its arguments.")


Optimizer = Annotated[
    SGD | Adam | AdamW,
    Field(discriminator="type"),
    BeforeValidator(lambda block: _filled(block, type="SGD", args={})),
]


class ScheduleArgs(_Block):
    """Those of every schedule."""

    warmup_epochs: NotNegative = Field(
        0.0,
        description="Epochs, or a part of one, in which a factor of the schedule's rate rises to 1, from step to step "
        "in a straight line; the schedule counts its epochs from the start of the run all the same.",
    )
    warmup_factor: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1 / 3, description="That factor at the first step (torch's LinearLR)."
    )


class MultiStepLRArgs(ScheduleArgs):
    milestones: list[Positive] = Field(description="Epochs after which the rate is multiplied.")
    gamma: PositiveFloat = Field(0.1, description="The factor.")

    @field_validator("milestones")
    @classmethod
    def _milestones(cls, milestones: list[int]) -> list[int]:
        if not milestones:
            raise ValueError("MultiStepLR needs it")
        if milestones != sorted(set(milestones)):
            raise ValueError(f"must increase, got {milestones}")
        return milestones


class MultiStepLR(_Block):
    type: Literal["MultiStepLR"] = Field("MultiStepLR", description="The rate is multiplied after given epochs.")
    args: MultiStepLRArgs = Field(description="Its arguments.")


class StepLRArgs(ScheduleArgs):
    step_size: Positive = Field(description="Epochs between two multiplications.")
    gamma: PositiveFloat = Field(0.1, description="The factor.")


class StepLR(_Block):
    type: Literal["StepLR"] = Field("StepLR", description="The rate is multiplied every so many epochs.")
    args: StepLRArgs = Field(description="Its arguments.")


class CosineAnnealingLRArgs(ScheduleArgs):
    T_max: Positive | None = Field(
        None,
        description="Epochs to the lowest rate; null is all epochs, and stays null, for a resumed run may train for "
        "longer.",
    )
    eta_min: NotNegative = Field(0.0, description="The lowest rate.")
    by: Literal["epoch", "step"] = Field("epoch", description="Change the rate after each epoch, or after each step.")


class CosineAnnealingLR(_Block):
    type: Literal["CosineAnnealingLR"] = Field(
        "CosineAnnealingLR", description="The rate falls along half a cosine, without restarts."
    )
    args: CosineAnnealingLRArgs = Field(default_factory=CosineAnnealingLRArgs, description="Its arguments.")


class ConstantLR(_Block):
    type: Literal["ConstantLR"] = Field("ConstantLR", description="The rate stays as it is.")
    args: ScheduleArgs = Field(default_factory=ScheduleArgs, description="Its arguments.")


class OneCycleLRArgs(ScheduleArgs):
    max_lr: PositiveFloat = Field(description="The highest rate, in place of optimizer.args.lr.")
    pct_start: Share = Field(0.3, description="Share of all steps in which the rate rises; then it falls.")
    anneal_strategy: Literal["cos", "linear"] = Field("cos", description="Along half a cosine, or in a straight line.")
    div_factor: PositiveFloat = Field(25.0, description="The first rate is max_lr divided by this.")
    final_div_factor: PositiveFloat = Field(1e4, description="The last rate is the first divided by this.")
    cycle_momentum: bool = Field(
        True, description="Change the momentum of SGD, or the first beta of Adam, the other way: down and up again."
    )
    base_momentum: Decay = Field(0.85, description="The lowest momentum, that of the highest rate.")
    max_momentum: Decay = Field(0.95, description="The first and the last momentum.")


class OneCycleLR(_Block):
    type: Literal["OneCycleLR"] = Field(
        "OneCycleLR", description="The rate rises and falls once, from step to step over the whole run."
    )
    args: OneCycleLRArgs = Field(description="Its arguments, torch's.")


Scheduler = Annotated[
    MultiStepLR | StepLR | CosineAnnealingLR | ConstantLR | OneCycleLR,
    Field(discriminator="type"),
    BeforeValidator(lambda block: _filled(block, type="ConstantLR", args={})),
]


class CrossEntropyArgs(_Block):
    label_smoothing: Share = Field(0.0, description="Share of each target that is spread evenly over all classes.")
    class_weights: Literal["balanced"] | Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        None,
        description="A weight for each class, as torch's CrossEntropyLoss has it: a list in the order of the classes, "
        'or "balanced", which is inverse to the training labels of the class; null is all alike.',
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _class_weights(cls, weights: Any) -> Any:
        several = isinstance(weights, list) and len(weights) > 0
        if several and all(type(weight) in (int, float) and 0 < weight <= LARGEST for weight in weights):
            return weights
        if weights in (None, "balanced"):
            return weights
        message = f'must be null, "balanced" or a list of numbers above 0, got {weights!r:.60}'
        raise UnknownChoice(message, ["balanced"]) if isinstance(weights, str) else ValueError(message)


class CrossEntropy(_Block):
    type: Literal["cross_entropy"] = Field("cross_entropy", description="Cross-entropy.")
    args: CrossEntropyArgs = Field(default_factory=CrossEntropyArgs, description="Its arguments.")


class SmoothedCrossEntropyArgs(_Block):
    smoothing: Share = Field(0.1, description="Share of each target that is spread evenly over all classes.")


class SmoothedCrossEntropy(_Block):
    type: Literal["smoothed_cross_entropy"] = Field(
        "smoothed_cross_entropy", description="Cross-entropy with label smoothing."
    )
    args: SmoothedCrossEntropyArgs = Field(default_factory=SmoothedCrossEntropyArgs, description="Its arguments.")


class GCEArgs(_Block):
    q: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.7, description="Between cross-entropy, which it nears towards 0, and half of mae, which it is at 1."
    )


class GCE(_Block):
    type: Literal["gce"] = Field("gce", description="Generalised cross-entropy (Zhang & Sabuncu 2018).")
    args: GCEArgs = Field(default_factory=GCEArgs, description="Its arguments.")


class SCEArgs(_Block):
    alpha: NotNegative = Field(0.1, description="Factor of the cross-entropy.")
    beta: NotNegative = Field(1.0, description="Factor of the reverse cross-entropy.")
    A: Annotated[float, Field(lt=0.0, ge=-LARGEST)] = Field(
        -4.0, description="What the logarithm of 0 counts as in the reverse cross-entropy."
    )


class SCE(_Block):
    type: Literal["sce"] = Field("sce", description="Symmetric cross-entropy (Wang et al. 2019).")
    args: SCEArgs = Field(default_factory=SCEArgs, description="Its arguments.")


class MAE(_Block):
    type: Literal["mae"] = Field("mae", description="Mean absolute error of the probabilities (Ghosh et al. 2017).")
    args: NoArgs = Field(default_factory=NoArgs, description="It takes none.")


def as_block(loss: Any) -> Any:
    """The block that a loss stands for which is given by its bare name."""
    return loss if isinstance(loss, dict) else {"type": loss}


Loss = Annotated[
    CrossEntropy | SmoothedCrossEntropy | GCE | SCE | MAE,
    Field(discriminator="type"),
    BeforeValidator(lambda loss: _filled(as_block(loss), type="cross_entropy", args={})),
]


class TrainerConfig(_Block):
    epochs: Positive = Field(100, description="Epochs to train in all, those before a resume included.")
    save_dir: PathText = Field("saved", description="Run folders are made in <save_dir>/<name>/.")
    save_period: Positive = Field(1, description="Epochs between two checkpoints; the last epoch is always saved.")
    save_every_minutes: PositiveFloat | None = Field(
        None, description="Save within an epoch as well, when so many minutes have gone by since the last time."
    )
    monitor: str = Field(
        "max val_accuracy",
        description="What model_best.pth is best by: 'max COLUMN' or 'min COLUMN' of metrics.csv, or 'off'.",
    )
    early_stop: Positive | None = Field(
        None, description="Stop after so many epochs without a better `monitor`; null never."
    )
    clip_grad_norm: PositiveFloat | None = Field(
        None, description="Scale a step's gradients down to this norm, over all parameters; null leaves them."
    )
    device: PathText | None = Field(None, description="cpu, cuda, cuda:1 or mps; null is the best there is.")
    amp: Literal["bf16", "fp16"] | None = Field(None, description="Autocast to this type; null trains in float32.")
    channels_last: bool | None = Field(
        None, description="Keep images in NHWC memory order; null does so on the CPU, where it is much faster."
    )
    compile: bool = Field(False, description="torch.compile the model; the first step then takes a minute.")
    keep_freed_memory: bool = Field(
        True,
        description="Keep the memory that is freed: faster steps, a higher peak. Linux with glibc only.",
    )
    sync_batch_norm: bool = Field(
        False,
        description="Of several processes on CUDA: BatchNorm takes its statistics over the whole batch, not over each "
        "process's share of it (torch's SyncBatchNorm).",
    )
    lost_after_minutes: Annotated[float, Field(gt=0.0, le=10_080.0)] = Field(
        5.0,
        description="Of several processes: one that keeps the others waiting for so long counts as lost, and they end. "
        "A save by the first must not take that long.",
    )
    deterministic: bool = Field(False, description="Ask torch for deterministic kernels only (slower on CUDA).")
    tensorboard: bool = Field(True, description="Write TensorBoard events into the run folder.")
    diagnostics: bool = Field(
        False,
        description="After each epoch, write each layer's singular values, gradient and weight norm (diagnostics.csv).",
    )

    @field_validator("monitor")
    @classmethod
    def _monitor(cls, monitor: str) -> str:
        columns = columns_of(("loss", *get_args(MetricName)))
        choices = ["off", *(f"{mode} {column}" for mode in ("max", "min") for column in columns)]
        if monitor in choices:
            return monitor
        message = f"must be 'off', or 'max' or 'min' and one of {', '.join(columns)}, got {monitor!r}"
        # The other way round is never what was meant, and would keep the worst epoch.
        meant = (f"{'min' if column.endswith(('_loss', '_ece')) else 'max'} {column}" for column in columns)
        raise UnknownChoice(message, ["off", *meant])


class InitialWeights(_Block):
    path: PathText = Field(
        description="A checkpoint, a weights-only file, or a run folder, of which the best is taken."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of that file, which a run notes; another file is refused. null takes any."
    )


class Config(_Block):
    """A run: every choice that its result depends on."""

    _remarks: tuple[str, ...] = PrivateAttr(())

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="Name of the experiment: letters, digits, '.', '_' and '-'."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        12,
        description="The one seed; split, noise, initialisation, order and augmentation each derive their own from it.",
    )
    protocol: Literal["clean", "as_published"] = Field(
        "clean",
        description="clean: disjoint splits of rightly read images. as_published: the defects of the published "
        "experiments' data, each of which is also a switch of its own; see docs/as_published.md.",
    )
    arch: Network = Field(default_factory=Arch, description="The network.")
    data_loader: DataLoader = Field(default_factory=DataLoader, description="The data.")
    label_noise: LabelNoise = Field(default_factory=SymmetricNoise, description="Wrong labels, put in on purpose.")
    optimizer: Optimizer = Field(default_factory=SGD, description="How weights are updated.")
    lr_scheduler: Scheduler = Field(default_factory=ConstantLR, description="How the learning rate changes.")
    loss: Loss = Field(default_factory=CrossEntropy, description="The training loss, or its bare name.")
    metrics: list[MetricName] = Field(
        ["accuracy", "top5_accuracy"], min_length=1, description="Figures besides the loss; accuracy comes first."
    )
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="The loop, its files and its device.")
    weights: InitialWeights | None = Field(
        None, description="The trained weights that a new run starts from; null draws them by the seed."
    )

    @model_validator(mode="before")
    @classmethod
    def _stem_by_size(cls, values: Any) -> Any:
        arch = values.get("arch") if isinstance(values, dict) else None
        if _kind_of_network(arch) != name_of(LibraryArch) or not isinstance(arch, dict):
            return values
        args, size = arch.get("args", {}), value_at(values, "data_loader.args.image_size")
        if not isinstance(args, dict) or args.get("stem") is not None:
            return values
        stem = "own" if type(size) is int and size > SMALL_IMAGE else "small"
        return values | {"arch": arch | {"args": args | {"stem": stem}}}

    @field_validator("metrics")
    @classmethod
    def _accuracy_first(cls, metrics: list[str]) -> list[str]:
        if metrics[0] != "accuracy" or len(set(metrics)) != len(metrics):
            raise ValueError("must begin with 'accuracy' and name nothing twice")
        return metrics

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines that whoever starts the run should be told: what the config's files do that is easily overlooked."""
        return self._remarks

    def settings(self) -> dict[str, Any]:
        """Every setting by its dotted key."""
        return dict(flat(self.model_dump()))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for editors. A file may inherit, so no key is required, not even a `type`."""
    schema = Config.model_json_schema()
    for block in (schema, *schema["$defs"].values()):
        block.pop("required", None)
    for field in schema["properties"].values():
        field.pop("discriminator", None)
        if "oneOf" in field:
            field["anyOf"] = field.pop("oneOf")
    losses = [name_of(block) for block in types_of(Config.model_fields["loss"].annotation)]
    schema["properties"]["loss"]["anyOf"].append({"enum": losses})
    path = {"type": "string"}
    schema["properties"] = {
        "$schema": path | {"description": "The schema that an editor checks this file with."},
        "_base_": {
            "anyOf": [path, {"type": "array", "items": path}],
            "description": "Files to inherit from, in order.",
        },
        **schema["properties"],
    }
    return cast(dict[str, Any], _in_one_form(schema))


def _in_one_form(schema: Any) -> Any:
    """The same schema, whichever pydantic made it: before 2.9 it wrapped references in allOf, before 2.10 it gave a
    constant as an enum as well."""
    if isinstance(schema, list):
        return [_in_one_form(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: _in_one_form(part) for key, part in schema.items()}
    if len(parts.get("allOf", ())) == 1:
        parts |= parts.pop("allOf")[0]
    if "const" in parts:
        parts.pop("enum", None)
    return dict(sorted(parts.items())) if "$ref" in parts else parts
