# The notebooks logistic_regression.ipynb and logistic_regression.zh.ipynb; see ../build.py.

# %% [markdown] lang="en"
# # Logistic regression, line by line
#
# [中文](logistic_regression.zh.ipynb)
#
# Section 1.2 of the course: each formula and each example is a line to run and a picture to look at. Where the project has a function for a formula, the function is imported from [`training/`](../../training), and is the one that fits the served models. Where the course has a mistake, the line that shows it is here; [docs/course.md](../../docs/course.md) lists them all.
#
# To run it, open this file in VS Code or Jupyter with the Python of `.venv` (`make install` creates it). Everything takes less than a minute.
#
# The course keeps one sample in each *column*, X of shape (n, m). Tables have one sample in each *row*, and so does the project: X is `[m, n]`.

# %% [markdown] lang="zh"
# # 逻辑回归：逐行可运行
#
# [English](logistic_regression.ipynb)
#
# 对应课程 1.2 节：每个公式、每个例子都是一行可以运行的代码，配一张可以看的图。凡是项目里已有函数的公式，都直接从 [`training/`](../../training) 导入，线上所用的模型正是由这些函数训练出来的。课程里有错的地方，这里给出能说明问题的那一行；全部勘误见 [docs/course.zh.md](../../docs/course.zh.md)。
#
# 运行方法：用 VS Code 或 Jupyter 打开本文件，选择 `.venv` 里的 Python（由 `make install` 创建）。全部运行不到一分钟。
#
# 课程把每个样本放在一*列*，X 的形状是 (n, m)。表格的每个样本是一*行*，本项目也是如此：X 的形状是 `[m, n]`。

# %%
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # only errors
ROOT = next(folder for folder in Path.cwd().parents if (folder / "pyproject.toml").exists())
sys.path.insert(0, str(ROOT))

# %%
import time
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from examples.course import pictures
from training.data.held_out import sigmoid
from training.fitting import logistic_regression
from training.fitting.feature_blocks import Block
from training.fitting.minimize import Stopping, descend
from training.fitting.objective import Objective
from training.fitting.penalty import Penalty
from training.fitting.solvers import GradientDescent
from training.settings import LossName
from training.workers.collectives import Workers

pictures.use_style()
Array = pictures.Array
LOSSES: tuple[LossName, LossName] = ("cross-entropy", "squared")

# %% [markdown] lang="en"
# ## 1. The model
#
# $$\hat y = \sigma(w^T x + b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}$$
#
# The weighted sum $z$ may be any number; σ makes it a probability. σ(0) = 0.5, and far from 0 it is flat.

# %% [markdown] lang="zh"
# ## 1. 模型
#
# $$\hat y = \sigma(w^T x + b), \qquad \sigma(z) = \frac{1}{1 + e^{-z}}$$
#
# 加权和 $z$ 可以是任意实数，σ 把它变成概率。σ(0) = 0.5；离 0 越远，曲线越平。

# %%
z = np.linspace(-8, 8, 401)
a = sigmoid(z)

figure, axes = plt.subplots(figsize=(6.5, 3.2))
axes.plot(z, a, label="σ(z)")
axes.plot(z, a * (1 - a), "--", label="σ′(z) = σ(z) (1 − σ(z))")
axes.plot(0, 0.5, "o", color=pictures.BLUE)
axes.set(xlabel="z", yticks=[0, 0.25, 0.5, 0.75, 1])
axes.legend()
plt.show()

# %%
w, b = np.array([0.8, -0.5]), 0.1
x = np.array([2.0, 1.0])
z_of_x = w @ x + b
print(f"z = wᵀx + b = {z_of_x:.4g}")
print(f"ŷ = σ(z)    = {sigmoid(z_of_x):.4f}")

# %% [markdown] lang="en"
# ## 2. The loss of one sample
#
# The course has two:
#
# $$\text{squared}\quad L(\hat y, y) = \tfrac12 (\hat y - y)^2 \qquad\qquad \text{cross-entropy}\quad L(\hat y, y) = -\left(y \ln \hat y + (1 - y) \ln(1 - \hat y)\right)$$
#
# For y = 1 the second is $-\ln \hat y$, for y = 0 it is $-\ln(1 - \hat y)$. **Correction:** for y = 0 the course prints $\ln(1 - \hat y)$, without the minus sign. Then a confident wrong answer would have the *lowest* loss.
#
# `propagate` is the project's forward and backward pass. Given a single row it returns the loss of that row.

# %% [markdown] lang="zh"
# ## 2. 单个样本的损失函数
#
# 课程给出两种损失函数：
#
# $$\text{平方损失}\quad L(\hat y, y) = \tfrac12 (\hat y - y)^2 \qquad\qquad \text{交叉熵}\quad L(\hat y, y) = -\left(y \ln \hat y + (1 - y) \ln(1 - \hat y)\right)$$
#
# 当 y = 1 时，交叉熵就是 $-\ln \hat y$；当 y = 0 时，是 $-\ln(1 - \hat y)$。**勘误：** y = 0 时课程写成了 $\ln(1 - \hat y)$，漏了负号。那样的话，错得越自信，损失反而越*小*。
#
# `propagate` 是项目里的正向传播与反向传播。只给它一行样本，返回的就是这一个样本的损失。


# %%
def loss_of(y_hat: float, y: float, loss: LossName) -> float:
    """Return the loss of one sample, from the project's own function."""
    z = np.log(y_hat / (1 - y_hat))  # the z whose σ(z) is ŷ
    row = np.array([[z]]), np.array([y]), np.ones(1)  # one feature z, with w = 1 and b = 0
    return float(logistic_regression.propagate(np.ones(1), 0.0, *row, loss).loss)


y_hat = np.linspace(0.005, 0.995, 199)
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for axes, y in zip(panels, (1.0, 0.0), strict=True):
    for loss in LOSSES:
        axes.plot(y_hat, [loss_of(value, y, loss) for value in y_hat], label=loss)
    axes.set(title=f"y = {y:.0f}", xlabel="ŷ", ylim=(-0.1, 5))
panels[1].plot(y_hat, np.log(1 - y_hat), ":", color=pictures.GREY, label="ln(1 − ŷ), as printed")
panels[1].set_ylim(-2.5, 5)
panels[0].set_ylabel("loss")
panels[1].legend()
plt.show()

# %%
print("y = 0    right: −ln(1 − ŷ)    as printed: ln(1 − ŷ)")
for value in (0.1, 0.5, 0.9, 0.99):
    printed = np.log(1 - value)
    print(f"ŷ = {value:<4} {loss_of(value, 0.0, 'cross-entropy'):>16.3f} {printed:>23.3f}")

# %% [markdown] lang="en"
# ### Why not the squared loss
#
# A function is convex if its second derivative is nowhere negative. Then it has one valley, and gradient descent finds the bottom of it. Below is the cost as a function of w for a single sample x = 1, y = 1 with b = 0. With the squared loss the second derivative is negative on the left: far from the answer the curve is flat, so the steps become small exactly where the model is most wrong.
#
# `Objective` is the project's cost: it gives J and its derivatives at θ = (w, b).

# %% [markdown] lang="zh"
# ### 为什么不用平方损失
#
# 如果一个函数的二阶导数处处不为负，它就是凸函数：只有一个谷，梯度下降总能走到谷底。下图是只有一个样本 x = 1、y = 1 且 b = 0 时，成本随 w 变化的曲线。用平方损失时，左边的二阶导数是负的：离答案越远，曲线越平，于是模型错得最厉害的地方，步子反而最小。
#
# `Objective` 是项目里的成本函数：给出 J 及其在 θ = (w, b) 处的导数。


# %%
def cost_of(X: Array, y: Array, loss: LossName = "cross-entropy") -> Objective:
    """Return the cost of these rows as a function of θ: the weights, and the bias last."""
    rows = Block(tf.constant(X), tf.constant(y), tf.ones_like(y))
    return Objective(
        [rows], X.shape[1], total_weight=len(y), penalty=Penalty(), loss=loss, workers=Workers()
    )


def over_w(objective: Objective, w: Array, b: float) -> tuple[Array, Array]:
    """Return J and dJ/dw at each w."""
    results = [objective.cost_and_gradient(np.array([w_i, b])) for w_i in w]
    costs, slopes = zip(*((cost, gradient[0]) for cost, gradient in results), strict=True)
    return np.array(costs), np.array(slopes)


one_sample = np.array([[1.0]]), np.array([1.0])
w_axis = np.linspace(-8, 8, 161)
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4))
for loss in LOSSES:
    costs, slopes = over_w(cost_of(*one_sample, loss), w_axis, b=0.0)
    second = np.gradient(slopes, w_axis)
    panels[0].plot(w_axis, costs, label=loss)
    panels[1].plot(w_axis, second, label=loss)
    print(f"{loss:<13} smallest d²J/dw² = {second.min():.2f}")
panels[0].set(title="J(w)", xlabel="w", ylim=(0, 3))
panels[1].set(title="d²J/dw²", xlabel="w")
panels[1].axhline(0, color="black", linewidth=0.8)
panels[0].legend()
plt.show()

# %% [markdown] lang="en"
# With more samples the squared cost can have several valleys. These five samples with b = −3 give it two. From w = −3 gradient descent ends in the higher one and stays there; cross-entropy has a single valley.

# %% [markdown] lang="zh"
# 样本一多，平方损失的成本就可能有好几个谷。下面五个样本（b = −3）就有两个谷。从 w = −3 出发，梯度下降停在较高的那个谷里，再也出不来；而交叉熵只有一个谷。

# %%
five_samples = np.array([[-4.0], [-1.0], [3.0], [4.0], [6.0]]), np.array([1.0, 0, 0, 1, 1])
w_axis = np.linspace(-4.5, 4.5, 181)
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4))
for axes, loss in zip(panels, reversed(LOSSES), strict=True):
    objective = cost_of(*five_samples, loss)
    costs, slopes = over_w(objective, w_axis, b=-3.0)
    axes.plot(w_axis, costs, color=pictures.BLUE)
    for start in (-3.0, 2.5):
        steps = [start]
        for _ in range(300):
            _, gradient = objective.cost_and_gradient(np.array([steps[-1], -3.0]))
            steps.append(steps[-1] - 0.5 * gradient[0])
        path = np.array(steps)
        axes.plot(path, np.interp(path, w_axis, costs), "o", color=pictures.RED, markersize=3)
        print(f"{loss:<13} from w = {start:>4}: ends at w = {path[-1]:>5.2f}, ", end="")
        print(f"J = {np.interp(path[-1], w_axis, costs):.3f}")
    valleys = np.sum((np.diff(costs)[:-1] < 0) & (np.diff(costs)[1:] > 0))
    axes.set(title=f"{loss}: valleys = {valleys}", xlabel="w")
panels[0].set_ylabel("J(w)")
plt.show()

# %% [markdown] lang="en"
# ## 3. The cost and gradient descent
#
# The cost is the mean of the losses, $J(w, b) = \frac1m \sum_i L(\hat y^{(i)}, y^{(i)})$. Gradient descent repeats
#
# $$w := w - \alpha \frac{\partial J}{\partial w}, \qquad b := b - \alpha \frac{\partial J}{\partial b}$$
#
# Twelve samples with one feature, so that J(w, b) can be drawn. `GradientDescent.step` is the project's update.

# %% [markdown] lang="zh"
# ## 3. 成本函数与梯度下降
#
# 成本函数是损失的平均值：$J(w, b) = \frac1m \sum_i L(\hat y^{(i)}, y^{(i)})$。梯度下降反复执行
#
# $$w := w - \alpha \frac{\partial J}{\partial w}, \qquad b := b - \alpha \frac{\partial J}{\partial b}$$
#
# 下面用 12 个样本、1 个特征，这样 J(w, b) 可以画成曲面。`GradientDescent.step` 就是项目里的更新。

# %%
x = np.array([-3.0, -2.2, -1.6, -1.0, -0.4, 0.2, 0.6, 1.1, 1.7, 2.3, 2.9, 3.4])
y = np.array([0.0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1])
objective = cost_of(x[:, np.newaxis], y)


def trace_descent(learning_rate: float, steps: int) -> tuple[Array, Array]:
    """Return θ before each step of gradient descent, and J there."""
    solver = GradientDescent(learning_rate)
    state = replace(solver.start(objective), theta=np.array([-1.0, 2.0]))
    path = [state.theta]
    for _ in range(steps):
        state = solver.step(objective, state)
        path.append(state.theta)
    return np.array(path), np.array([objective.cost_and_gradient(theta)[0] for theta in path])


w_axis, b_axis = np.linspace(-1.5, 8, 58), np.linspace(-2.5, 2.5, 31)
grid = pictures.cost_grid(lambda theta: objective.cost_and_gradient(theta)[0], w_axis, b_axis)
safe_rate = objective.safe_learning_rate()
pictures.draw_surface(w_axis, b_axis, grid, *trace_descent(safe_rate, 40))

# %% [markdown] lang="en"
# The learning rate α decides how well this works. Too small: 40 steps are not enough. Too large: the steps jump across the valley and the cost rises again. A good rate can be computed: with α = 1 / L, where L bounds the second derivative of J, the cost never rises. This is the project's default (`Objective.safe_learning_rate`).

# %% [markdown] lang="zh"
# 学习率 α 决定了下降的过程。太小：40 步还走不到。太大：一步跨过山谷，成本反而上升。合适的 α 是可以算出来的：取 α = 1 / L，其中 L 是 J 的二阶导数的上界，这样成本永远不会上升。这就是项目的默认值（`Objective.safe_learning_rate`）。

# %%
rates = {"too small": 0.05, "good": safe_rate, "too large": 8.0}
descents = {f"α = {alpha:.3g}, {name}": trace_descent(alpha, 40) for name, alpha in rates.items()}
pictures.draw_paths(w_axis, b_axis, grid, {name: path for name, (path, _) in descents.items()})

figure, axes = plt.subplots(figsize=(6.5, 3.2))
styles = (pictures.GREY, pictures.BLUE, pictures.RED)
for (name, (_, costs)), color in zip(descents.items(), styles, strict=True):
    axes.plot(costs, label=name, color=color)
    print(f"{name:<22} J after 10 steps = {costs[10]:.3f}, ", end="")
    print("sometimes rising" if np.any(np.diff(costs) > 1e-12) else "never rising")
axes.set(xlabel="step", ylabel="J", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown] lang="en"
# ## 4. A derivative is a slope
#
# Nudge a by 0.001 and see how far f(a) moves: the ratio is the derivative. f(a) = 4a moves four times as far, whatever a is. f(a) = a² moves 2a times as far, so the slope depends on a.
#
# **Correction:** for a² at a = 5 the course prints y = 4 and a = 2.001, which belong to the previous example. The correct numbers are 25 and 5.001 → 25.010001, slope 10.

# %% [markdown] lang="zh"
# ## 4. 导数就是斜率
#
# 把 a 增加 0.001，看 f(a) 变化多少，两者之比就是导数。f(a) = 4a 在任何位置都变化 4 倍；f(a) = a² 变化 2a 倍，斜率与位置有关。
#
# **勘误：** 对 a² 在 a = 5 处，课程写的是 y = 4、a = 2.001，那是上一个例子的数。正确的是 25 与 5.001 → 25.010001，斜率为 10。


# %%
def nudge(name: str, f, a: float) -> None:
    """Print how far f moves if a moves by 0.001."""
    before, after = f(a), f(a + 0.001)
    slope = (after - before) / 0.001
    print(f"{name:>3} at a = {a}:   a = {a + 0.001:.3f}   {before:.0f} → {after:.9g}   ", end="")
    print(f"slope {slope:.3f}")


nudge("4a", lambda a: 4 * a, 2)
nudge("4a", lambda a: 4 * a, 5)
nudge("a²", lambda a: a**2, 2)
nudge("a²", lambda a: a**2, 5)

# %%
a_axis = np.linspace(0, 6.5, 200)
figure, axes = plt.subplots(figsize=(6.5, 3.6))
axes.plot(a_axis, a_axis**2, label="a²")
for a, color in ((2, pictures.GREEN), (5, pictures.RED)):
    slope = 2 * a
    near = np.array([a - 1, a + 1.2])
    axes.plot(near, a**2 + slope * (near - a), color=color, linewidth=1.5)
    axes.plot([a, a + 1, a + 1], [a**2, a**2, a**2 + slope], ":", color=color, linewidth=1.5)
    axes.plot(a, a**2, "o", color=color)
    axes.annotate(
        f"a = {a}: slope {slope}", (a, a**2), (-14, 4), textcoords="offset points", ha="right"
    )
axes.set(xlabel="a", ylim=(-3, 42))
axes.legend()
plt.show()

# %% [markdown] lang="en"
# ## 5. The table of derivatives
#
# Each row of the course's table, checked twice: by central differences, and by TensorFlow's automatic differentiation.

# %% [markdown] lang="zh"
# ## 5. 导数表
#
# 课程导数表里的每一行都验证两次：一次用中心差分，一次用 TensorFlow 的自动微分。

# %%
TABLE: dict[str, Any] = {
    "a²": (tf.square, "2a", lambda a: 2 * a),
    "a³": (lambda a: a**3, "3a²", lambda a: 3 * a**2),
    "ln a": (tf.math.log, "1 / a", lambda a: 1 / a),
    "eᵃ": (tf.exp, "eᵃ", np.exp),
    "σ(a)": (tf.sigmoid, "σ(a) (1 − σ(a))", lambda a: 1 / (2 + np.exp(a) + np.exp(-a))),
    "tanh a": (tf.tanh, "1 − tanh² a", lambda a: 1 - np.tanh(a) ** 2),
}
h = 1e-5
print("f(a)     derivative         at a = 2    largest error: differences, autodiff")
for name, (f, formula, derivative) in TABLE.items():
    a = np.linspace(0.2, 2.5, 47)
    differences = (f(tf.constant(a + h)) - f(tf.constant(a - h))).numpy() / (2 * h)
    with tf.GradientTape() as tape:
        inputs = tf.Variable(a)
        outputs = f(inputs)
    automatic = tape.gradient(outputs, inputs).numpy()
    exact = derivative(a)
    errors = [
        f"below {limit}" if np.abs(estimate - exact).max() < limit else "WRONG"
        for estimate, limit in ((differences, 1e-8), (automatic, 1e-12))
    ]
    print(f"{name:<8} {formula:<18} {derivative(2.0):<11.6f} {', '.join(errors)}")

# %%
figure, panels = plt.subplots(2, 3, figsize=(9, 4.6))
for axes, (name, (f, formula, derivative)) in zip(panels.flat, TABLE.items(), strict=True):
    a = np.linspace(0.2 if name == "ln a" else -2.5, 2.5, 101)
    axes.plot(a, f(tf.constant(a)), label=name)
    axes.plot(a, derivative(a), "--", label=formula)
    axes.legend(fontsize="small")
for axes in panels[1]:
    axes.set_xlabel("a")
plt.show()

# %% [markdown] lang="en"
# ## 6. The computation graph
#
# J = 3 (a + b c) in three steps: u = b c, v = a + u, J = 3 v. Forward (blue) gives the values; backward (red) gives the derivatives of J, each from the one after it. The course takes a = 7, b = 4, c = 2.
#
# **Correction:** the course prints dJ/dc = 9 = 3 · 3. But du/dc = b = 4, so dJ/dc = 3 · 4 = 12. The 9 belongs to b = 3.

# %% [markdown] lang="zh"
# ## 6. 计算图
#
# J = 3 (a + b c) 分三步：u = b c，v = a + u，J = 3 v。正向（蓝色）得到各节点的值；反向（红色）得到 J 的导数，每个导数都由它后面的一个得来。课程取 a = 7，b = 4，c = 2。
#
# **勘误：** 课程写的是 dJ/dc = 9 = 3 · 3。但 du/dc = b = 4，所以 dJ/dc = 3 · 4 = 12。9 对应的是 b = 3。


# %%
def forward(a: float, b: float, c: float) -> dict[str, float]:
    """Return the value of each node, from left to right."""
    u = b * c
    v = a + u
    return {"a": a, "b": b, "c": c, "u": u, "v": v, "J": 3 * v}


def backward(node: dict[str, float]) -> dict[str, float]:
    """Return the derivative of J with respect to each node, from right to left."""
    dJ_dv = 3.0
    dJ_da = dJ_dv * 1  # v = a + u, so dv/da = 1
    dJ_du = dJ_dv * 1
    dJ_db = dJ_du * node["c"]  # u = b c, so du/db = c
    dJ_dc = dJ_du * node["b"]  # and du/dc = b
    return {"v": dJ_dv, "a": dJ_da, "u": dJ_du, "b": dJ_db, "c": dJ_dc}


values = forward(a=7, b=4, c=2)
slopes = backward(values)
pictures.draw_graph(
    {
        "a": (0, 2.4, "a"),
        "b": (0, 1.2, "b"),
        "c": (0, 0, "c"),
        "u": (2.4, 0.6, "u = b c"),
        "v": (4.9, 1.5, "v = a + u"),
        "J": (7.2, 1.5, "J = 3 v"),
    },
    [
        ("a", "v", "dv/da = 1"),
        ("b", "u", "du/db = c"),
        ("c", "u", "du/dc = b"),
        ("u", "v", "dv/du = 1"),
        ("v", "J", "dJ/dv = 3"),
    ],
    values,
    slopes,
    output="J",
)

# %%
with tf.GradientTape() as tape:
    a, b, c = (tf.Variable(number) for number in (7.0, 4.0, 2.0))
    J = 3 * (a + b * c)
automatic = dict(zip("abc", tape.gradient(J, [a, b, c]), strict=True))

print(f"J = {values['J']}")
print(f"dJ/dv = {slopes['v']:.0f}")
for name in "abc":
    print(f"dJ/d{name} = {slopes[name]:.0f}, TensorFlow: {automatic[name]:.0f}, ", end="")
    moved = forward(**{n: values[n] + 0.001 * (n == name) for n in "abc"})
    print(f"nudged: {(moved['J'] - values['J']) / 0.001:.3f}")
print(f"with b = 3 instead of 4: dJ/dc = {backward(forward(a=7, b=3, c=2))['c']:.0f}")

# %% [markdown] lang="en"
# ## 7. The chain rule
#
# If c changes, u changes; if u changes, v changes; if v changes, J changes. The derivatives along the path are multiplied:
#
# $$\frac{dJ}{dc} = \frac{dJ}{dv} \cdot \frac{dv}{du} \cdot \frac{du}{dc} = 3 \cdot 1 \cdot b$$
#
# Logistic regression is such a path too: x → z → a → L. With cross-entropy
#
# $$\frac{dL}{da} = -\frac ya + \frac{1 - y}{1 - a}, \qquad \frac{da}{dz} = a (1 - a), \qquad dz = \frac{dL}{dz} = \frac{dL}{da} \cdot \frac{da}{dz} = a - y$$
#
# The factor a (1 − a) cancels, which is why dz does not vanish where σ is flat. (The course's notation: dz is short for dL/dz.)

# %% [markdown] lang="zh"
# ## 7. 链式法则
#
# c 变，u 就变；u 变，v 就变；v 变，J 就变。把路径上的导数乘起来：
#
# $$\frac{dJ}{dc} = \frac{dJ}{dv} \cdot \frac{dv}{du} \cdot \frac{du}{dc} = 3 \cdot 1 \cdot b$$
#
# 逻辑回归也是这样一条路径：x → z → a → L。用交叉熵时
#
# $$\frac{dL}{da} = -\frac ya + \frac{1 - y}{1 - a}, \qquad \frac{da}{dz} = a (1 - a), \qquad dz = \frac{dL}{dz} = \frac{dL}{da} \cdot \frac{da}{dz} = a - y$$
#
# 因子 a (1 − a) 恰好消去，所以即使在 σ 很平的地方，dz 也不会消失。（沿用课程的记号：dz 是 dL/dz 的简写。）

# %%
for y_value in (1.0, 0.0):
    for z_value in np.array([-3.0, 0.5, 3.0]):
        a = sigmoid(z_value)
        dloss_da = -y_value / a + (1 - y_value) / (1 - a)
        da_dz = a * (1 - a)
        by_chain = dloss_da * da_dz
        losses = [
            loss_of(float(sigmoid(z_value + h)), y_value, "cross-entropy") for h in (-1e-4, 1e-4)
        ]
        by_nudge = (losses[1] - losses[0]) / 2e-4
        print(f"y = {y_value:.0f}, z = {z_value:>4}:  dL/da · da/dz = {by_chain:>8.5f}, ", end="")
        print(f"a − y = {a - y_value:>8.5f}, nudged {by_nudge:>8.5f}")

# %% [markdown] lang="en"
# ## 8. Backpropagation in logistic regression, one sample
#
# The course's graph with two features: z = w₁x₁ + w₂x₂ + b, a = σ(z), L(a, y). Backward: dz = a − y, dw₁ = x₁ dz, dw₂ = x₂ dz, db = dz. `propagate` is compared with the numbers computed by hand.

# %% [markdown] lang="zh"
# ## 8. 逻辑回归的反向传播：一个样本
#
# 课程里两个特征的计算图：z = w₁x₁ + w₂x₂ + b，a = σ(z)，L(a, y)。反向：dz = a − y，dw₁ = x₁ dz，dw₂ = x₂ dz，db = dz。用手算的结果核对 `propagate`。

# %%
x, y_value = np.array([2.0, -1.0]), 1.0
w, b = np.array([0.5, 0.8]), -0.4

z_value = w @ x + b
a_value = float(sigmoid(z_value))
dz = a_value - y_value
dw, db = x * dz, dz

ours = logistic_regression.propagate(
    w, b, x[np.newaxis], np.array([y_value]), np.ones(1), "cross-entropy"
)
print(f"by hand:    dw = {np.round(dw, 4)}, db = {db:.4f}")
print(f"propagate:  dw = {np.round(ours.dw.numpy(), 4)}, db = {ours.db:.4f}")

# %%
pictures.draw_graph(
    {
        "w₁": (0, 3.2, "w₁"),
        "x₁": (0, 2.4, "x₁"),
        "w₂": (0, 1.6, "w₂"),
        "x₂": (0, 0.8, "x₂"),
        "b": (0, 0, "b"),
        "z": (3.6, 1.6, "z = w₁x₁ + w₂x₂ + b"),
        "a": (6.6, 1.6, "a = σ(z)"),
        "L": (8.9, 1.6, "L(a, y)"),
    },
    [
        ("w₁", "z", "x₁"),
        ("x₁", "z", ""),
        ("w₂", "z", "x₂"),
        ("x₂", "z", ""),
        ("b", "z", "1"),
        ("z", "a", "da/dz"),
        ("a", "L", "dL/da"),
    ],
    {
        **{"w₁": w[0], "w₂": w[1], "x₁": x[0], "x₂": x[1]},
        **{"b": b, "z": z_value, "a": a_value, "L": float(ours.loss)},
    },
    {"w₁": dw[0], "w₂": dw[1], "b": db, "z": dz, "a": -1 / a_value},
    output="L",
)

# %% [markdown] lang="en"
# ## 9. m samples: a loop
#
# The derivatives of the cost are the means over the samples. The course first writes them with a loop over the samples and one over the features:

# %% [markdown] lang="zh"
# ## 9. m 个样本：循环
#
# 成本函数的导数是各样本导数的平均值。课程先用循环来写：外层遍历样本，内层遍历特征。


# %%
def propagate_by_loop(w: Array, b: float, X: Array, Y: Array) -> tuple[Array, float, float]:
    """Return dw, db and J, computed sample by sample."""
    m, n = X.shape
    J, dw, db = 0.0, np.zeros(n), 0.0
    for i in range(m):
        z = b
        for j in range(n):
            z += w[j] * X[i, j]
        a = 1 / (1 + np.exp(-z))
        J += -(Y[i] * np.log(a) + (1 - Y[i]) * np.log(1 - a))
        dz = a - Y[i]
        for j in range(n):
            dw[j] += X[i, j] * dz
        db += dz
    return dw / m, db / m, J / m


random = np.random.default_rng(0)
X = random.normal(size=(20_000, 30))
Y = (X @ random.normal(size=30) + random.logistic(size=20_000) > 0).astype(np.float64)
w, b = random.normal(size=30) * 0.1, 0.2
dw, db, J = propagate_by_loop(w, b, X, Y)
print(f"J = {J:.6f}, db = {db:.6f}, dw[:3] = {np.round(dw[:3], 6)}")

# %% [markdown] lang="en"
# ## 10. All samples at once: vectorised
#
# Z = X w + b, A = σ(Z), dZ = A − Y, dw = Xᵀ dZ / m, db = mean of dZ: five lines without a loop. `propagate` is these lines; it returns sums over its rows, so that the sums of several blocks can be added, and `Objective` divides by m.

# %% [markdown] lang="zh"
# ## 10. 所有样本一起算：向量化
#
# Z = X w + b，A = σ(Z)，dZ = A − Y，dw = Xᵀ dZ / m，db = dZ 的平均值：五行，没有循环。`propagate` 就是这几行；它返回各行之和，这样多个数据块的结果可以相加，最后由 `Objective` 除以 m。

# %%
objective = cost_of(X, Y)
J_at_once, gradient = objective.cost_and_gradient(np.append(w, b))
print(f"J = {J_at_once:.6f}, db = {gradient[-1]:.6f}, dw[:3] = {np.round(gradient[:3], 6)}")
print("same as by loop:", np.allclose([*dw, db, J], [*gradient, J_at_once]))

# %% [markdown] lang="en"
# The next cell measures both; its output depends on the machine and is not kept here. On two cores of a server the loop took about a second, and `propagate` one millisecond.

# %% [markdown] lang="zh"
# 下一个单元格测量两者的时间；输出与机器有关，所以不保存在这里。在一台两核的服务器上，循环约需一秒，`propagate` 约需一毫秒。


# %% tags=["varies"]
def measure_seconds(function, repeats: int) -> float:
    """Return the shortest duration of a call."""
    durations = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start_time)
    return min(durations)


loop_seconds = measure_seconds(lambda: propagate_by_loop(w, b, X, Y), 2)
at_once_seconds = measure_seconds(lambda: objective.cost_and_gradient(np.append(w, b)), 20)
print(f"loop       {1000 * loop_seconds:>8.1f} ms")
print(f"vectorised {1000 * at_once_seconds:>8.1f} ms")

# %%
print("vectorised is more than ten times as fast:", loop_seconds > 10 * at_once_seconds)

# %% [markdown] lang="en"
# ## 11. A single neuron
#
# The course's six functions, with their names and with one sample per column. Each calls the project's function for its step: `optimize` is the training job's own loop.

# %% [markdown] lang="zh"
# ## 11. 单个神经元
#
# 课程里的六个函数，名字不变，每列一个样本也不变。每个函数都调用项目里对应的函数：`optimize` 就是训练任务自己的循环。


# %%
def initialize_with_zeros(shape: int) -> tuple[Array, float]:
    """Return w = 0 and b = 0."""
    return np.zeros((shape, 1)), 0.0


def basic_sigmoid(x: Array) -> Array:
    """Return σ(x)."""
    return sigmoid(x)


def propagate(w: Array, b: float, X: Array, Y: Array) -> tuple[dict[str, Any], float]:
    """Return dw and db, and the cost."""
    cost, gradient = cost_of(X.T, Y[0]).cost_and_gradient(np.append(w, b))
    return {"dw": gradient[:-1, np.newaxis], "db": gradient[-1]}, cost


def optimize(
    w: Array, b: float, X: Array, Y: Array, num_iterations: int, learning_rate: float
) -> tuple[dict[str, Any], list[float]]:
    """Return the parameters after gradient descent from w = 0 and b = 0, and the costs."""
    solver, objective = GradientDescent(learning_rate), cost_of(X.T, Y[0])
    assert np.array_equal(np.append(w, b), solver.start(objective).theta)
    fit = descend(solver, objective, Stopping(num_iterations, tolerance=0.0))
    return {"w": fit.theta[:-1, np.newaxis], "b": fit.theta[-1]}, fit.progress.costs


def predict(w: Array, b: float, X: Array) -> Array:
    """Return 1 where ŷ > 0.5, else 0."""
    return (basic_sigmoid(w.T @ X + b) > 0.5).astype(np.float64)


def model(
    X_train: Array,
    Y_train: Array,
    X_test: Array,
    Y_test: Array,
    num_iterations: int = 2000,
    learning_rate: float = 0.0001,
) -> tuple[float, list[float]]:
    """Fit, print both accuracies, and return the test accuracy and the costs."""
    w, b = initialize_with_zeros(X_train.shape[0])
    fitted, costs = optimize(w, b, X_train, Y_train, num_iterations, learning_rate)
    train, test = (
        np.mean(predict(fitted["w"], fitted["b"], X) == Y)
        for X, Y in ((X_train, Y_train), (X_test, Y_test))
    )
    print(f"accuracy: training {train:.3f}, test {test:.3f}")
    return float(test), costs


# %% [markdown] lang="en"
# ### The exercise
#
# `make_classification(n_samples=500, n_features=5, n_classes=2)`, 30 % held out, 2000 iterations at α = 0.0001.
#
# **Correction:** to put one sample into each column the course calls `reshape(-1, m)`. That keeps the numbers in memory order and only splits them differently, so a column mixes different samples. The correct operation is the transpose, `X.T`:

# %% [markdown] lang="zh"
# ### 练习
#
# `make_classification(n_samples=500, n_features=5, n_classes=2)`，留出 30 %，α = 0.0001，迭代 2000 次。
#
# **勘误：** 为了让每列是一个样本，课程用了 `reshape(-1, m)`。它保持数字在内存中的顺序，只是重新切分，于是一列里混进了不同样本的数。真正需要的是转置 `X.T`：

# %%
small = np.array([["a1", "a2"], ["b1", "b2"], ["c1", "c2"]])  # samples a, b, c; features 1, 2
print("X, a sample in each row:", *small, sep="\n")
print("X.T, a sample in each column:", *small.T, sep="\n")
print("X.reshape(-1, 3), samples scrambled:", *small.reshape(-1, 3), sep="\n")


# %%
def exercise(seed: int) -> tuple[Array, Array, Array, Array]:
    """Return the exercise's rows, a sample in each row: training, test, and their labels."""
    X, Y = make_classification(n_samples=500, n_features=5, n_classes=2, random_state=seed)
    return train_test_split(X, Y.astype(np.float64), test_size=0.3, random_state=seed)


X_train, X_test, Y_train, Y_test = exercise(seed=0)
rows = Y_train[np.newaxis], Y_test[np.newaxis]
print("as published, reshape(-1, m)", end="   ")
scrambled_accuracy, scrambled = model(
    X_train.reshape(-1, len(X_train)), rows[0], X_test.reshape(-1, len(X_test)), rows[1]
)
print("X.T                         ", end="   ")
slow_accuracy, slow = model(X_train.T, rows[0], X_test.T, rows[1])
print("X.T, α = 0.1                ", end="   ")
fast_accuracy, fast = model(X_train.T, rows[0], X_test.T, rows[1], learning_rate=0.1)

figure, axes = plt.subplots(figsize=(6.5, 3.2))
axes.plot(scrambled, color=pictures.GREY, label="reshape(−1, m), α = 0.0001")
axes.plot(slow, color=pictures.RED, label="X.T, α = 0.0001")
axes.plot(fast, color=pictures.BLUE, label="X.T, α = 0.1")
axes.set(xlabel="iteration", ylabel="J", ylim=(0, 0.75))
axes.legend()
plt.show()

# %% [markdown] lang="en"
# With the scrambled columns the cost hardly moves, and with α = 0.0001 it is still falling after 2000 iterations.
#
# A single seed may be lucky, so the next cell repeats the exercise with 20 seeds. All 20 fits run at once: `tf.vectorized_map` gives `propagate` one more dimension, as section 10 did with the samples. `benchmarks/course.py` runs them one by one, with [the same result](../../benchmarks/results/course.md).

# %% [markdown] lang="zh"
# 样本被打乱时，成本几乎不动；而 α = 0.0001 时，2000 次迭代之后成本仍在下降。
#
# 一个随机种子只是一次运气，所以再对 20 个种子重复一遍。20 个一起下降：`tf.vectorized_map` 给 `propagate` 加上一维，正如第 10 节对样本所做的那样。`benchmarks/course.py` 逐个计算，[结果相同](../../benchmarks/results/course.md)。

# %%
EXERCISES = [exercise(seed) for seed in range(20)]


def all_sums(theta, X, Y):
    """Return the gradient sums of all seeds, by calling `propagate` for each."""
    ones = tf.ones_like(Y[0])

    def propagate_seed(arguments):
        theta, X, Y = arguments
        return logistic_regression.propagate(theta[:-1], theta[-1], X, Y, ones, "cross-entropy")

    return tf.vectorized_map(propagate_seed, (theta, X, Y))


def measure_accuracies(prepare, learning_rate: float) -> Array:
    """Return the accuracy on the test rows for each seed, after 2000 iterations."""
    X_by_seed, X_test_by_seed, Y_by_seed, Y_test_by_seed = zip(*EXERCISES, strict=True)
    X, X_test = (np.array([prepare(x) for x in tables]) for tables in (X_by_seed, X_test_by_seed))
    Y, Y_test = np.array(Y_by_seed), np.array(Y_test_by_seed)

    @tf.function(autograph=False)
    def step(theta):
        sums = all_sums(theta, tf.constant(X), tf.constant(Y))
        gradient = tf.concat([sums.dw, sums.db[:, tf.newaxis]], axis=1) / X.shape[1]
        return theta - learning_rate * gradient

    theta = tf.zeros([len(EXERCISES), X.shape[2] + 1], tf.float64)
    for _ in range(2000):
        theta = step(theta)
    z = np.einsum("smn,sn->sm", X_test, theta[:, :-1]) + theta[:, -1:]
    return np.mean((z > 0) == Y_test, axis=1)


def reshape_like_course(X: Array) -> Array:
    """Return X as scrambled by `reshape(-1, m)`, transposed to one sample per row."""
    return X.reshape(-1, len(X)).T


accuracies = {
    "as published: reshape(-1, m), α = 0.0001": measure_accuracies(reshape_like_course, 0.0001),
    "X.T, α = 0.0001": measure_accuracies(lambda X: X, 0.0001),
    "X.T, α = 0.1": measure_accuracies(lambda X: X, 0.1),
    "scikit-learn's LogisticRegression": np.array(
        [
            LogisticRegression().fit(X_train, Y_train).score(X_test, Y_test)
            for X_train, X_test, Y_train, Y_test in EXERCISES
        ]
    ),
}
for name, scores in accuracies.items():
    print(f"{name:<42} mean {scores.mean():.3f}   ", end="")
    print(f"{scores.min():.2f} to {scores.max():.2f}")
one_by_one = [scrambled_accuracy, slow_accuracy, fast_accuracy]
at_once = [scores[0] for scores in list(accuracies.values())[:3]]
print("seed 0 as above:", np.allclose(at_once, one_by_one))

# %%
figure, axes = plt.subplots(figsize=(8, 2.8))
for row, scores in enumerate(accuracies.values()):
    axes.plot(scores, np.full(20, -row), "o", color=pictures.BLUE, alpha=0.35)
    axes.plot(scores.mean(), -row, "|", color=pictures.RED, markersize=24, markeredgewidth=3)
axes.axvline(0.5, color=pictures.GREY, linestyle=":")
axes.set(xlabel="accuracy on the test rows: 20 seeds, and their mean", xlim=(0.38, 1.02))
axes.set_yticks(range(0, -4, -1), accuracies)
axes.set_ylim(-3.5, 0.5)
plt.show()

# %% [markdown] lang="en"
# As published, the neuron learns nothing: 0.478 is chance. With the transpose it reaches 0.866, and with a learning rate that lets it converge, 0.892, like scikit-learn (0.891).
#
# Next: [deployment.ipynb](deployment.ipynb) puts this neuron into production.

# %% [markdown] lang="zh"
# 按课程发表的写法，神经元什么也没学到：0.478 就是瞎猜。改用转置后达到 0.866；再把学习率调到能走到谷底，达到 0.892，与 scikit-learn 的结果（0.891）一致。
#
# 下一步：[deployment.zh.ipynb](deployment.zh.ipynb) 把这个神经元部署上线。
