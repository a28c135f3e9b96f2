import pytest
import torch
from helpers import randn

from stcl_models.heads import LargeFov, ProjectionHead, TeacherHead


def test_projection_compares_with_unit_directions_and_has_unit_length():
    head = ProjectionHead(8, out=16, bottleneck=4)
    tokens = torch.randn(2, 3, 8)
    out = head(tokens)
    assert out.shape == (2, 3, 16)
    unit = torch.nn.functional.normalize(head.mlp(tokens), dim=-1)
    cosine = torch.nn.functional.cosine_similarity(unit[:, :, None], head.directions, dim=-1)
    assert torch.allclose(out, cosine / cosine.norm(dim=-1, keepdim=True), atol=1e-6)
    assert torch.allclose(out.norm(dim=-1), torch.ones(2, 3))


def test_teacher_is_the_moving_average_of_its_student():
    student = ProjectionHead(8, out=4)
    teacher = TeacherHead(student)
    start = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    teacher.update(student, 0.9)
    for own, old, new in zip(teacher.parameters(), start, student.parameters(), strict=True):
        assert torch.allclose(own, 0.9 * old + 0.1 * new, atol=1e-6)


def test_teacher_has_no_gradient_but_a_place_in_the_checkpoint():
    teacher = TeacherHead(ProjectionHead(8, out=4))
    assert not teacher(randn(0, 2, 8)).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert "head.directions" in teacher.state_dict()


@pytest.mark.parametrize("dilation", [1, 5])
def test_decoder_sees_two_dilated_neighbourhoods(dilation):
    features = torch.zeros(1, 8, 25, 25, requires_grad=True)
    scores = LargeFov(8, 3, dilation=dilation)(features)
    assert scores.shape == (1, 3, 25, 25)
    scores[0, :, 12, 12].sum().backward()
    seen = features.grad.abs().sum((0, 1)).nonzero()
    assert seen.amin() >= 12 - 2 * dilation
    assert seen.amax() <= 12 + 2 * dilation
    assert (seen - 12).remainder(dilation).eq(0).all()
