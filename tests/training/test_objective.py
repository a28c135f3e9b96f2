"""A whole training step against the plain way: float32, and each loss with passes through the encoder of its own."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stcl_cli.cams import local_crop_corners
from stcl_cli.config import TrainConfig
from stcl_cli.losses.dense_energy import dense_energy
from stcl_cli.memory import discriminants_of, memory_maps
from stcl_cli.networks import build_stcl
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.runtime.device import make_runtime
from stcl_cli.training.objective import Objective
from stcl_cli.training.remember import Remember
from stcl_models import memory_bank
from stcl_models.stcl import CamPass

CROP, PATCH, CLASSES = 128, 16, 4
CONFIG = TrainConfig(
    images="", labels="", output="", backbone="test_vit", pretrained=False, crop_size=CROP,
    contrast_start=0.2, memory_start=0.4, segmentation_start=0.4, w_class=0.5, w_seg=0.1, beta_high=0.5, beta_low=0.3,
)  # fmt: skip
LATE = 0.9  # all losses are on
WEIGHTS = {"cls": 1.0, "cls_aux": 1.0, "patch": CONFIG.w_patch, "class": CONFIG.w_class, "memory": CONFIG.w_memory,
           "seg": CONFIG.w_seg, "reg": CONFIG.w_reg}  # fmt: skip


def make_batch(seed, size=2):
    """Photos of coarse texture, the second with padding; one label for the first, two for the others."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(size, 3, 8, 8, generator=generator) * 255
    box = torch.tensor([[0, CROP, 0, CROP]] * size)
    box[1] = torch.tensor([16, CROP, 0, 96])
    labels = torch.zeros(size, CLASSES)
    labels[torch.arange(size), torch.arange(size) % CLASSES] = 1
    labels[1:, 3] = 1
    return {
        "photo": F.interpolate(coarse, size=(CROP, CROP), mode="bicubic").clamp(0, 255).byte(),
        "box": box,
        "labels": labels,
        "index": torch.arange(size),
        "uniform": torch.rand(size, CONFIG.local_crops, generator=generator),
    }


@pytest.fixture(scope="module")
def model():
    """A network whose memory holds what some batches left in it."""
    torch.manual_seed(0)
    model = build_stcl(CONFIG, CLASSES).train()
    with torch.no_grad():
        for layer in (model.classifier, model.classifier_aux):
            layer.weight.mul_(10)  # so that probabilities are not all a half
        objective = Objective(model, CONFIG, make_runtime("cpu"))
        for seed in range(4):
            objective(make_batch(seed, 4), 0.3)
    assert model.memory.prototype.any(1).sum() >= 4
    model.memory.trust.copy_(torch.tensor([1, 0.3, 0, 0.5, 0]))
    return model


def step(model, batch, amp="off", config=CONFIG):
    """(parts, gradients by name, the model afterwards) of the shared passes."""
    model = copy.deepcopy(model)
    loss, parts = Objective(model, config, make_runtime("cpu", amp))(batch, LATE)
    return parts, gradients(model, loss), model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def plain_step(model, batch):
    model = copy.deepcopy(model)
    parts = plain_losses(model, batch)
    loss = sum(WEIGHTS[name] * value for name, value in parts.items())
    return parts, gradients(model, loss), model


def plain_losses(model, batch):
    images = (batch["photo"].float() - model.backbone.mean) / model.backbone.std
    labels, encode = batch["labels"], model.backbone
    slots = [row.nonzero().flatten().tolist() for row in labels]
    most = max(map(len, slots))
    slots_BK = torch.tensor([row + [-1] * (most - len(row)) for row in slots])
    valid = torch.zeros(len(images), CROP, CROP, dtype=torch.bool)
    for row, (top, bottom, left, right) in zip(valid, batch["box"].tolist(), strict=True):
        row[top:bottom, left:right] = True

    parts = {}
    for name, classifier, tokens in (
        ("cls", model.classifier, encode(images).patch_BND),
        ("cls_aux", model.classifier_aux, encode(images).aux_BND),
    ):
        scores = tokens.amax(1) @ classifier.weight.t()
        parts[name] = F.binary_cross_entropy_with_logits(scores, labels)

    with torch.no_grad():
        cams = plain_cam_pass(model, images, slots_BK)
        maps = [plain_maps(cam, cams, model, slots_BK, valid) for cam in (cams.cam_BChw, cams.cam_aux_BChw)]
        last, aux = maps
        label_grid = plain_labels(F.avg_pool2d(aux, 2), slots_BK, CONFIG.beta_low, CONFIG.beta_high)
        valid_grid = F.avg_pool2d(valid[:, None].float(), PATCH)[:, 0] > 0.5
        label_grid[~valid_grid] = 255

    parts["patch"] = plain_patch_contrast(encode(images).patch_BND, label_grid.flatten(1))
    parts["class"] = plain_class_contrast(model, images, label_grid, valid_grid, batch["uniform"])
    remember, tokens = Remember(model.memory, CONFIG), encode(images)
    regions = remember.regions(aux, slots_BK, valid, tokens.grid)
    parts["memory"] = remember.loss(tokens, regions, cams.logits_BC, slots_BK)
    remember.store(cams, aux, slots_BK, valid, batch["index"], LATE)

    scores = model.decoder(encode(images).patch_BND.transpose(1, 2).unflatten(2, (CROP // PATCH,) * 2))
    half = F.interpolate(batch["photo"].float(), scale_factor=0.5, mode="bilinear")
    target = plain_target(F.interpolate(last, size=half.shape[-2:], mode="bilinear"), half, slots_BK)
    target[F.avg_pool2d(valid[:, None].float(), 2)[:, 0] <= 0.5] = 255
    log_p = F.interpolate(scores, size=half.shape[-2:], mode="bilinear").log_softmax(1)
    entropies = [-log_p.permute(0, 2, 3, 1)[pixels].gather(1, target[pixels][:, None]) for pixels in
                 (target == 0, (target > 0) & (target < 255))]  # fmt: skip
    parts["seg"] = sum(entropy.mean() for entropy in entropies if len(entropy)) / 2
    parts["reg"] = dense_energy(model.segment(encode(images)), batch["photo"], valid)
    return parts


def plain_cam_pass(model, images, slots_BK):
    """One view of one photo at a time."""
    discriminants = discriminants_of(model.memory.view(), slots_BK)
    per_photo = []
    for image, own in zip(images, discriminants, strict=True):
        cams, cams_aux, scores, remembered, mirrors, keys = [], [], [], [], [], []
        for scale in CONFIG.cam_scales:
            side = round(CROP * scale / PATCH) * PATCH
            view = F.interpolate(image[None], size=(side, side), mode="bilinear")
            plain, mirror = model.backbone(view), model.backbone(view.flip(-1))
            grid = (1, -1, side // PATCH, side // PATCH)
            for found, classifier, pair in (
                (cams, model.classifier, (plain.patch_BND, mirror.patch_BND)),
                (cams_aux, model.classifier_aux, (plain.aux_BND, mirror.aux_BND)),
            ):
                straight, turned = ((t @ classifier.weight.t()).transpose(1, 2).reshape(grid) for t in pair)
                found.append(bilinear(torch.maximum(straight, turned.flip(-1)).relu()))
            straight, turned = ((t.key_BND @ own.t()).transpose(1, 2).reshape(grid) for t in (plain, mirror))
            remembered.append(bilinear((straight + turned.flip(-1)) / 2))
            scores += [tokens.patch_BND.amax(1) @ model.classifier.weight.t() for tokens in (plain, mirror)]
            mirrors.append(mirror.class_BD)
            keys.append(plain.key_BND)
        means = [torch.stack(values).mean(0) for values in (cams, cams_aux, scores)]
        per_photo.append([*means, mirrors[0], remembered[2], keys[2]])
    return CamPass(*(torch.cat(values) for values in zip(*per_photo, strict=True)), (12, 12))


def bilinear(maps):
    return F.interpolate(maps, size=(CROP // 8, CROP // 8), mode="bilinear")


def min_max(maps):
    low, high = (f(maps.flatten(2), 2)[:, :, None, None] for f in (torch.amin, torch.amax))
    return (maps - low) / (high - low).clamp_min(1e-5)


def plain_maps(cam_BChw, cams, model, slots_BK, valid):
    """The maps of each photo's labels, guided by the memory."""
    inside = (F.avg_pool2d(valid[:, None].float(), 8) > 0.5).float()
    own = torch.zeros(*slots_BK.shape, *cam_BChw.shape[2:])
    for photo, row in enumerate(slots_BK.tolist()):
        for slot, label in enumerate(row):
            if label >= 0:
                own[photo, slot] = cam_BChw[photo, label]
    remembered, trust = memory_maps(cams.memory_BRhw, model.memory.view(), slots_BK)
    share = CONFIG.guidance * trust[:, :, None, None]
    return min_max((1 - share) * min_max(own * inside) + share * min_max(remembered * inside))


def plain_labels(maps_BKhw, slots_BK, low, high):
    labels = torch.empty(maps_BKhw.shape[0], *maps_BKhw.shape[2:], dtype=torch.long)
    for photo, y, x in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        values = maps_BKhw[photo, :, y, x]
        best = values.argmax()
        sure = slots_BK[photo, best].item() + 1 if values[best] >= high else 255
        labels[photo, y, x] = 0 if values[best] <= low else sure
    return labels


def plain_patch_contrast(tokens_BND, labels_BN):
    alike, unlike = [], []
    for tokens, labels in zip(tokens_BND, labels_BN.tolist(), strict=True):
        cosine = F.cosine_similarity(tokens[:, None], tokens[None], dim=-1).abs()
        for i, a in enumerate(labels):
            for j, b in enumerate(labels):
                if i != j and 255 not in (a, b):
                    (alike if a == b else unlike).append(cosine[i, j])
    assert alike
    assert unlike
    return 0.5 * (1 - sum(alike) / (len(alike) + 1)) + 0.5 * sum(unlike) / (len(unlike) + 1)


def plain_class_contrast(model, images, label_grid, valid_grid, uniform):
    """Both global views and every local crop through the encoder alone."""
    for own, new in zip(model.teacher.head.parameters(), model.student.parameters(), strict=True):
        own.data = CONFIG.ema * own.data + (1 - CONFIG.ema) * new.data
    window = 4
    corners, positive = local_crop_corners(label_grid, valid_grid, window, uniform)  # where is a draw
    terms = []
    for photo, image in enumerate(images):
        with torch.no_grad():
            views = [model.teacher(model.backbone(v).class_BD)[0] for v in (image[None], image[None].flip(-1))]
        students = []
        for row, column in (corners[photo] * PATCH).tolist():
            crop = image[None, :, row : row + window * PATCH, column : column + window * PATCH]
            students.append(model.student(model.backbone(crop).class_BD)[0])
        for view in views:
            exps = [torch.exp(view @ student / CONFIG.temperature) for student in students]
            others = sum(e for e, own in zip(exps, positive[photo], strict=True) if not own)
            terms += [-torch.log(e / (e + others)) for e, own in zip(exps, positive[photo], strict=True) if own]
    assert terms
    return sum(terms) / len(terms)


def plain_target(maps_BKHW, photos, slots_BK):
    """Two refinements, one a background score, as ToCo does it; what they do not agree on is ignored."""
    labels = []
    for score in (CONFIG.beta_low, CONFIG.beta_high):
        background = torch.full_like(maps_BKHW[:, :1], score)
        best = pixel_adaptive_refine(torch.cat([background, maps_BKHW], 1), photos).argmax(1)
        labels.append(torch.cat([torch.full_like(slots_BK[:, :1], 0), slots_BK + 1], 1).gather(1, best.flatten(1)))
    low, high = labels
    target = torch.where(low == high, high, 255)
    return target.view(len(target), *maps_BKHW.shape[2:])


@pytest.fixture(scope="module")
def plain(model):
    return plain_step(model, make_batch(11))


def test_shared_passes_give_the_losses_and_gradients_of_the_plain_way(model, plain):
    parts, found, after = step(model, make_batch(11))
    expected_parts, expected, expected_after = plain
    assert parts.keys() == expected_parts.keys() == WEIGHTS.keys()
    for name, value in parts.items():
        assert value.item() == pytest.approx(expected_parts[name].item(), rel=1e-4), name
        assert value > 0, name
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 2e-3 * expected[name].norm() + 1e-8, name
    for (name, value), other in zip(after.state_dict().items(), expected_after.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=name)  # teacher, and what the memory holds
    assert (after.memory.stored > model.memory.stored).any()


def test_bfloat16_stays_near_the_plain_way(model, plain):
    """Losses to 1 %; gradients less closely, as global max pooling now and then takes another patch."""
    parts, found, _ = step(model, make_batch(11), "bf16")
    expected_parts, expected, _ = plain
    for name, value in parts.items():
        assert value.item() == pytest.approx(expected_parts[name].item(), rel=0.01), name
    mine, other = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in (found, expected))
    assert (mine - other).norm() < 0.2 * other.norm()


def test_which_losses_a_batch_in_parts_keeps(model):
    """Means over photos; not those over pairs, of which the padded photo has fewer."""
    batch = make_batch(11)
    whole, _, _ = step(model, batch)
    parts = [step(model, {name: values[row : row + 1] for name, values in batch.items()})[0] for row in (0, 1)]
    means = {name: ((parts[0][name] + parts[1][name]) / 2).item() for name in whole}
    for name in ("cls", "cls_aux"):
        assert means[name] == pytest.approx(whole[name].item(), rel=1e-5)
    for name in ("patch", "seg"):
        assert means[name] != pytest.approx(whole[name].item(), rel=1e-5)


def test_a_phase_computes_no_more_passes_than_it_needs(model):
    """The crop once, each other view of the CAM pass once, and the local crops."""
    counted = []
    model = copy.deepcopy(model)
    model.backbone.register_forward_hook(lambda module, given, out: counted.append(given[0].shape[::3]))
    objective = Objective(model, CONFIG, make_runtime("cpu"))
    for progress, views in (
        (0.1, [(2, CROP)]),
        (LATE, [(2, CROP), (2, CROP), (4, 64), (4, 192), (2 * CONFIG.local_crops, 64)]),
    ):
        counted.clear()
        objective(make_batch(11), progress)
        assert counted == views


def test_contrast_waits_for_a_memory_to_guide(model):
    before, after = 0.3, 0.5  # between --contrast-start and --memory-start, and later
    objective = Objective(copy.deepcopy(model), CONFIG, make_runtime("cpu"))
    assert not {"patch", "class"} & objective(make_batch(11), before)[1].keys()
    assert {"patch", "class", "memory"} <= objective(make_batch(11), after)[1].keys()
    for other in (replace(CONFIG, memory_slots=0), replace(CONFIG, guidance=0.0)):
        objective = Objective(build_stcl(other, CLASSES).train(), other, make_runtime("cpu"))
        assert {"patch", "class"} <= objective(make_batch(11), before)[1].keys()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("amp", "tolerance"), [("off", 2e-3), ("bf16", 0.1)])
def test_on_a_gpu_with_passes_that_are_replayed(amp, tolerance, monkeypatch):
    """Steps through all phases: as on the CPU, and the same without replaying."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(memory_bank, "DOUBTED", 0.0)
    config = replace(CONFIG, backbone="deit_tiny_patch16_224")
    losses = {}
    for name, device, labels in (("cpu", "cpu", None), ("plain", "cuda", None), ("replayed", "cuda", 2)):
        torch.manual_seed(0)
        runtime = make_runtime(device, amp if device == "cuda" else "off")
        model = build_stcl(config, CLASSES).train().to(device)
        objective = Objective(model, config, runtime, labels)
        assert (type(objective.see).__name__ == "ReplayedWithGradient") == (name == "replayed")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        losses[name] = []
        for number, progress in enumerate((0.1, 0.1, 0.3, 0.3, 0.3, 0.5, 0.5, 0.9)):
            batch = {key: value.to(device) for key, value in make_batch(number, 4).items()}
            loss, parts = objective(batch, progress)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses[name].append({key: value.item() for key, value in {**parts, "norm": norm}.items()})
    assert {"memory", "patch", "class", "seg", "reg"} <= losses["cpu"][-1].keys()
    for cpu, plain, replayed in zip(*losses.values(), strict=True):
        assert replayed == pytest.approx(plain, rel=tolerance, abs=tolerance)
        if amp == "bf16":  # the gradients of networks that know nothing yet differ by more, step by step
            plain["norm"] = cpu["norm"]
        assert plain == pytest.approx(cpu, rel=2 * tolerance, abs=2 * tolerance)
