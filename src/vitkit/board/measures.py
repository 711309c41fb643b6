"""What a result may be about: the board's metrics, tasks and data sets. Numbers change: a row here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "METRICS", "TASKS", "Dataset", "Metric", "Task"]

PERCENT = "%"


@dataclass(frozen=True)
class Metric:
    """One figure. On the board rates are in percent; in the rows of commands and runs they are fractions."""

    name: str  # as rows name it: top1
    title: str
    unit: str  # "%" for a rate, else what the number counts
    better: str  # higher or lower
    low: float = 0.0
    high: float | None = 100.0  # in `unit`; None: without end
    aliases: tuple[str, ...] = ()

    @property
    def rate(self) -> bool:
        """Is it a fraction in the rows of commands?"""
        return self.unit == PERCENT


@dataclass(frozen=True)
class Task:
    """One kind of question asked of a model, with the metrics that answer it."""

    name: str
    title: str
    summary: str
    metrics: tuple[str, ...]  # the first heads its tables
    aliases: tuple[str, ...] = ()  # names of protocols among them


@dataclass(frozen=True)
class Dataset:
    """One data set as results are printed for it."""

    name: str
    title: str
    summary: str
    tasks: tuple[str, ...]  # the first is the usual one
    images: int | None = None  # of the split that published figures are of; None where it is not one number
    split: str = "test"  # that split as its publisher calls it
    classes: int | None = None
    metrics: tuple[str, ...] = ()  # where they are not those of its tasks
    aliases: tuple[str, ...] = ()
    source: str = ""  # address of the publisher's page or the paper
    group: str = ""  # VTAB's
    splits: tuple[tuple[str, str], ...] = ()  # splits with a metric of their own: (split, what top1 of it is)


def _rate(name: str, title: str, *aliases: str, better: str = "higher") -> Metric:
    return Metric(name, title, PERCENT, better, aliases=aliases)


METRICS = (
    _rate("top1", "top-1 accuracy", "accuracy", "acc", "acc1", "top-1", "percentage correct", "precision@1"),
    _rate("top5", "top-5 accuracy", "acc5", "top-5"),
    _rate("balanced_accuracy", "mean per-class accuracy", "mean_per_class", "mean per class"),
    _rate("macro_f1", "macro F1"),
    _rate("micro_f1", "micro F1"),
    _rate("map", "mean average precision"),
    _rate("exact_match", "exact match"),
    _rate("macro_auroc", "macro AUROC", "auroc"),
    _rate("ece", "calibration error", better="lower"),
    Metric("nll", "negative log-likelihood", "nats", "lower", high=None),
    _rate("top1_majority", "top-1 accuracy, neighbours voting alike"),
    *(
        _rate(f"top1_{k}shot", f"top-1 accuracy, {k} image{'s' if k > 1 else ''} per class", f"{k}shot", f"{k}-shot")
        for k in (1, 5, 10, 25)
    ),
    _rate("accuracy_all", "accuracy, all images", "accuracy - all images", "all"),
    _rate("accuracy_clean", "accuracy, clean images", "accuracy - clean images", "clean"),
    _rate("accuracy_corrupted", "accuracy, corrupted images", "accuracy - corrupted images", "corrupted"),
    Metric("mce", "mean corruption error, of AlexNet's", PERCENT, "lower", high=None),
    _rate("i2t_r1", "image to text, recall at 1"),
    _rate("t2i_r1", "text to image, recall at 1"),
)
SCORED = (
    "top1",
    "top5",
    "balanced_accuracy",
    "macro_f1",
    "macro_auroc",
    "nll",
    "ece",
    "map",
    "micro_f1",
    "exact_match",
)

TASKS = (
    Task("image-classification", "Image Classification",
         "One of a fixed set of classes for each image, by a model trained or fine-tuned for these classes.",
         SCORED, ("classify", "classification", "robustness")),
    Task("vtab-1k", "VTAB-1k",
         "Nineteen tasks with 1,000 training images each: how well does one backbone adapt to little data of many kinds? Its "
         "score is the unweighted mean of the nineteen accuracies.",
         ("top1",), ("vtab", "transfer")),
    Task("few-shot", "Few-Shot Classification",
         "A regularised linear regression on frozen features of a few images per class, scored on the whole test split.",
         tuple(f"top1_{k}shot" for k in (5, 1, 10, 25)), ("fewshot", "few-shot linear")),
    Task("linear-probe", "Linear Probe",
         "A linear classifier on frozen features of the whole training split.", SCORED, ("linear", "linear evaluation")),
    Task("knn", "k-Nearest Neighbours",
         "Each image gets the class of the training images whose frozen features are nearest: nothing is trained.",
         (*SCORED, "top1_majority"), ("k-NN", "nearest neighbours")),
    Task("domain-generalization", "Domain Generalization",
         "A model trained on one kind of picture, scored on another without having seen it: photographs by blind people, "
         "drawings, corrupted or hard images.",
         ("top1", "top5", "accuracy_all", "accuracy_clean", "accuracy_corrupted", "mce"), ("robustness", "domain generalisation")),
    Task("domain-adaptation", "Domain Adaptation",
         "A model of one kind of picture made to work on another.",
         ("top1", "accuracy_all", "accuracy_clean", "accuracy_corrupted")),
    Task("zero-shot", "Zero-Shot Classification",
         "Classes are given as text only: an image gets the class whose description its embedding is nearest to.",
         ("top1", "top5"), ("zero-shot image classification",)),
    Task("image-text-retrieval", "Image-Text Retrieval",
         "Find the caption of an image among many, and the image of a caption.", ("i2t_r1", "t2i_r1"), ("retrieval",)),
    Task("semantic-segmentation", "Semantic Segmentation",
         "A class for every pixel. The community's listing tags the ViT paper with it; vitkit itself has no such evaluation.", ()),
)  # fmt: skip

USUAL = ("image-classification", "linear-probe", "knn", "few-shot", "zero-shot")
HARDER = ("image-classification", "zero-shot")
SHIFTED = ("domain-generalization", "zero-shot")


def _imagenet_like(name: str, title: str, summary: str, images: int | None, classes: int, source: str, *aliases: str,
                   tasks: tuple[str, ...] = HARDER, metrics: tuple[str, ...] = (),
                   splits: tuple[tuple[str, str], ...] = ()) -> Dataset:  # fmt: skip
    return Dataset(name, title, summary, tasks, images, "test", classes, metrics, aliases, source, splits=splits)


def _vtab(group: str, name: str, title: str, summary: str, images: int, classes: int, *aliases: str) -> Dataset:
    """One task of VTAB-1k; its images are those of the whole test split that is scored."""
    spellings = tuple(f"vtab {alias}" for alias in aliases)
    return Dataset(f"vtab-{name}", f"VTAB {title}", summary, ("vtab-1k",), images, "test", classes, ("top1",), spellings,
                   VTAB, group)  # fmt: skip


def _vtab_mean(group: str, summary: str) -> Dataset:
    """A group's mean, or that of all; its images are those of all test splits together."""
    images = sum(row.images or 0 for row in VTAB_TASKS if group in ("", row.group))
    name = f"vtab-{group}" if group else "vtab"
    spellings = () if group else ("vtab-all", "vtab-1k", "vtab(19)")
    return Dataset(name, f"VTAB {group.capitalize()}" if group else "VTAB, all tasks", summary, ("vtab-1k",), images, "test", None,
                   ("top1",), spellings, VTAB, group)  # fmt: skip


VTAB = "https://arxiv.org/abs/1910.04867"
VTAB_TASKS = (
    _vtab("natural", "caltech101", "Caltech101", "101 kinds of objects and a background class.", 6_084, 102),
    _vtab("natural", "cifar100", "CIFAR-100", "A hundred classes of small pictures.", 10_000, 100, "cifar"),
    _vtab("natural", "dtd", "DTD", "47 kinds of texture.", 1_880, 47),
    _vtab("natural", "flowers102", "Flowers102", "102 kinds of flowers.", 6_149, 102, "oxford_flowers102"),
    _vtab("natural", "pets", "Pets", "37 breeds of cats and dogs.", 3_669, 37, "oxford_iiit_pet", "oxford_pet"),
    _vtab("natural", "sun397", "Sun397", "397 kinds of scenes.", 21_750, 397),
    _vtab("natural", "svhn", "SVHN", "House numbers: which digit?", 26_032, 10, "svhn_cropped"),
    _vtab("specialized", "patch-camelyon", "Patch Camelyon", "Is there tumour tissue on a piece of a lymph node?", 32_768, 2,
          "camelyon", "pcam"),
    _vtab("specialized", "eurosat", "EuroSAT", "Ten kinds of land use seen by a satellite.", 5_400, 10),
    _vtab("specialized", "resisc45", "Resisc45", "45 kinds of scenes seen from above.", 6_300, 45),
    _vtab("specialized", "retinopathy", "Retinopathy", "Five grades of a disease of the eye.", 42_670, 5,
          "diabetic_retinopathy", "diabetic-retinopathy"),
    _vtab("structured", "clevr-count", "Clevr-Count", "How many objects are there?", 15_000, 8, "clevr_count_all"),
    _vtab("structured", "clevr-distance", "Clevr-Distance", "How far is the nearest object?", 15_000, 6, "clevr-dist",
          "clevr_closest_object_distance"),
    _vtab("structured", "dmlab", "DMLab", "How far is what object, in a maze?", 22_735, 6),
    _vtab("structured", "dsprites-location", "dSprites-Location", "Where from left to right is the shape?", 73_728, 16,
          "dsprites-loc", "dspr-loc", "dsprites_label_x_position"),
    _vtab("structured", "dsprites-orientation", "dSprites-Orientation", "How is the shape turned?", 73_728, 16,
          "dsprites-ori", "dspr-ori", "dsprites_label_orientation"),
    _vtab("structured", "kitti-distance", "KITTI-Distance", "How far is the nearest vehicle?", 711, 4, "kitti-dist", "kitti",
          "kitti_closest_vehicle_distance"),
    _vtab("structured", "smallnorb-azimuth", "smallNORB-Azimuth", "From which side is the toy seen?", 12_150, 18,
          "snorb-azim", "smallnorb_label_azimuth"),
    _vtab("structured", "smallnorb-elevation", "smallNORB-Elevation", "From how high is the toy seen?", 12_150, 9,
          "snorb-elev", "smallnorb_label_elevation"),
)  # fmt: skip
DATASETS = (
    Dataset("imagenet", "ImageNet",
            "1,000 classes of photographs, 1.28 million to train on. The test labels are kept back, so everybody scores the "
            "50,000 validation images.",
            USUAL, 50_000, "validation", 1000, (), ("imagenet-1k", "imagenet2012", "ilsvrc2012", "imagenet val"),
            "https://www.image-net.org"),
    Dataset("imagenet-real", "ImageNet ReaL",
            "ImageNet's validation images labelled again, with every class that is in the picture; an answer is right if it is "
            "one of them. Images without a label left are not counted.",
            HARDER, 46_837, "validation", 1000, (), ("real", "imagenet real labels", "imagenet reassessed"),
            "https://arxiv.org/abs/2006.07159"),
    _imagenet_like("imagenet-v2", "ImageNet V2",
                   "A second test set of ImageNet's classes, collected ten years later by the same recipe: it shows how much of "
                   "an accuracy is habit.", 10_000, 1000, "https://arxiv.org/abs/1902.10811", "imagenetv2",
                   "imagenet-v2-matched-frequency"),
    _imagenet_like("imagenet-v2-threshold", "ImageNet V2, threshold 0.7",
                   "The variant of V2 with images that most annotators agreed on.", 10_000, 1000,
                   "https://arxiv.org/abs/1902.10811", "imagenet-v2-threshold0.7"),
    _imagenet_like("imagenet-v2-top", "ImageNet V2, top images",
                   "The variant of V2 with the images that annotators agreed on most.", 10_000, 1000,
                   "https://arxiv.org/abs/1902.10811", "imagenet-v2-top-images"),
    _imagenet_like("objectnet", "ObjectNet",
                   "Household objects in odd places, rotated and seen from unusual sides; 113 of its classes are ImageNet's, and "
                   "only these are scored. Made for testing alone.", 18_574, 113, "https://objectnet.dev",
                   tasks=("image-classification", "domain-generalization", "zero-shot")),
    _imagenet_like("imagenet-a", "ImageNet-A", "Real photographs of 200 ImageNet classes that a ResNet-50 gets wrong.", 7_500,
                   200, "https://arxiv.org/abs/1907.07174", "imagenet adversarial", tasks=SHIFTED),
    _imagenet_like("imagenet-r", "ImageNet-R", "Paintings, toys, tattoos and other renditions of 200 ImageNet classes.",
                   30_000, 200, "https://arxiv.org/abs/2006.16241", "imagenet rendition", tasks=SHIFTED),
    _imagenet_like("imagenet-c", "ImageNet-C",
                   "The validation images with fifteen corruptions, noise to weather to compression, each in five strengths.",
                   None, 1000, "https://arxiv.org/abs/1903.12261", "imagenet corruptions",
                   tasks=("domain-generalization",), metrics=("mce", "top1")),
    _imagenet_like("imagenet-sketch", "ImageNet-Sketch", "Black and white drawings of the 1,000 classes.", 50_889, 1000,
                   "https://arxiv.org/abs/1905.13549", tasks=SHIFTED),
    _imagenet_like("vizwiz", "VizWiz-Classification",
                   "Photographs taken by blind people to ask what is on them: often blurred, cut off or dark. Accuracies are "
                   "told apart for images without and with such flaws.", 8_900, 200,
                   "https://vizwiz.org/tasks-and-datasets/image-classification/", "vizwiz-cls",
                   tasks=("domain-generalization", "domain-adaptation"),
                   metrics=("accuracy_all", "accuracy_clean", "accuracy_corrupted"),
                   splits=(("all", "accuracy_all"), ("clean", "accuracy_clean"), ("corrupted", "accuracy_corrupted"))),
    Dataset("cifar10", "CIFAR-10", "Ten classes of 32 by 32 pixel pictures, 50,000 to train and 10,000 to test on.", USUAL,
            10_000, "test", 10, (), ("cifar-10", "cifar 10"), "https://www.cs.toronto.edu/~kriz/cifar.html"),
    Dataset("cifar100", "CIFAR-100", "A hundred classes of 32 by 32 pixel pictures, 500 of each to train on.", USUAL,
            10_000, "test", 100, (), ("cifar-100", "cifar 100"), "https://www.cs.toronto.edu/~kriz/cifar.html"),
    Dataset("pets", "Oxford-IIIT Pets", "37 breeds of cats and dogs, about a hundred pictures of each to train on.", USUAL,
            3_669, "test", 37, (), ("oxford_iiit_pet", "oxford pets", "oxford-iiit pet", "pets37"),
            "https://www.robots.ox.ac.uk/~vgg/data/pets/"),
    Dataset("flowers102", "Oxford Flowers-102", "102 kinds of flowers, ten pictures of each to train on.", USUAL, 6_149,
            "test", 102, (), ("flowers-102", "oxford_flowers102", "flowers", "oxford flowers"),
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"),
    Dataset("flowers17", "Oxford Flowers-17", "17 kinds of flowers, 80 pictures of each; published with three random splits.",
            USUAL, None, "test", 17, (), ("flowers-17", "oxford_flowers17"),
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/17/"),
    Dataset("average-five", "Average of five",
            "The mean of ImageNet, CIFAR-10, CIFAR-100, Pets and Flowers, as Table 7 of the ViT paper prints it.",
            ("image-classification",), None, "test", None, ("top1",), ("average",)),
    _vtab_mean("", "The unweighted mean of the nineteen accuracies."),
    _vtab_mean("natural", "The mean over the seven tasks of everyday photographs."),
    _vtab_mean("specialized", "The mean over the four tasks of satellites and medicine."),
    _vtab_mean("structured", "The mean over the eight tasks that ask for counts, distances and positions."),
    *VTAB_TASKS,
    Dataset("resisc45", "NWPU-Resisc45", "45 kinds of scenes seen from above, without a published split.", USUAL, None, "test",
            45, (), ("resisc",)),
    Dataset("caltech101", "Caltech101", "101 kinds of objects and a background class.", USUAL, 6_084, "test", 102),
    Dataset("dtd", "DTD", "47 kinds of texture.", USUAL, 1_880, "test", 47, (), ("describable textures",)),
    Dataset("cars196", "Stanford Cars", "196 makes and models of cars.", USUAL, 8_041, "test", 196, (), ("cars", "stanford_cars")),
    Dataset("uc-merced", "UC Merced",
            "21 kinds of land use seen from above; few-shot results train on the first 1,000 images and test on the rest.",
            USUAL, 1_100, "train[1000:]", 21, (), ("uc_merced",)),
    Dataset("tiny-imagenet", "Tiny ImageNet", "200 classes of ImageNet at 64 by 64 pixels; the validation images are scored.",
            USUAL, 10_000, "validation", 200, (), ("tiny_imagenet", "tinyimagenet200", "tiny_imagenet_64")),
    Dataset("mnist", "MNIST", "Handwritten digits.", USUAL, 10_000, "test", 10),
    Dataset("digits", "Digits (scikit-learn)", "1,797 handwritten digits of 8 by 8 pixels, without a published split.", USUAL,
            None, "test", 10),
    Dataset("pneumoniamnist", "PneumoniaMNIST", "Chest X-rays of children, with and without pneumonia.", USUAL, 624, "test", 2),
    Dataset("coco-captions", "MS-COCO Captions", "Photographs with five captions each.", ("image-text-retrieval",), None,
            "test", None, (), ("coco", "mscoco")),
)  # fmt: skip
