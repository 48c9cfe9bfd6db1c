# The notebooks deployment.ipynb and deployment.zh.ipynb; see ../build.py.

# %% [markdown] lang="en"
# # From a neuron to a service
#
# [中文](deployment.zh.ipynb)
#
# The course's deployment chapter: export a model into a versioned directory, start a model server, call it over gRPC, and put a Flask route in front. Then the same with the project's own parts, to see what they add: deadlines, health, batching, versions.
#
# The model is the single neuron of [logistic_regression.ipynb](logistic_regression.ipynb). Its table is `neuron.csv`: the 500 rows of the exercise's first seed, with columns x1 to x5 and the label y.
#
# Where there is Docker with the image `tensorflow/serving:2.20.0`, TensorFlow Serving itself answers below; elsewhere the embedded server does, with the same API. The notebook prints which one it is, writes only to a temporary directory, and stops what it has started.

# %% [markdown] lang="zh"
# # 从一个神经元到一项服务
#
# [English](deployment.ipynb)
#
# 对应课程的部署一章：把模型导出到带版本号的目录，启动模型服务器，用 gRPC 请求它，再在前面加一个 Flask 路由。然后换成项目自己的组件做同样的事，看看多了什么：截止时间、健康检查、批处理、版本。
#
# 模型就是 [logistic_regression.zh.ipynb](logistic_regression.zh.ipynb) 里的单个神经元。数据表是 `neuron.csv`：练习中第一个随机种子的 500 行，列为 x1 到 x5，标签为 y。
#
# 如果本机有 Docker 以及 `tensorflow/serving:2.20.0` 镜像，下面由 TensorFlow Serving 应答；否则由内置的模型服务器应答，API 相同。笔记本会说明用的是哪一个；它只写临时目录，并且会停掉自己启动的一切。

# %%
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # only errors
os.environ["no_proxy"] = "127.0.0.1"
ROOT = next(folder for folder in Path.cwd().parents if (folder / "pyproject.toml").exists())
sys.path.insert(0, str(ROOT))

# %%
import atexit
import csv
import json
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

FOLDER = Path(tempfile.mkdtemp(prefix="course-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
MODELS = FOLDER / "models"
TABLE = ROOT / "examples" / "course" / "neuron.csv"

# %% [markdown] lang="en"
# ## 1. Export to a versioned directory
#
# TensorFlow Serving looks below `models/neuron/` for directories with a number as their name, and serves the highest. The course writes `model/commodity/1` with `SavedModelBuilder`, which TensorFlow 2 removed. The training job fits, checks, and publishes the next number; a version appears complete or not at all, so a server can never load half of one. First with the course's solver and learning rate:

# %% [markdown] lang="zh"
# ## 1. 导出到带版本号的目录
#
# TensorFlow Serving 在 `models/neuron/` 下寻找以数字命名的目录，并提供编号最大的那个。课程用 `SavedModelBuilder` 写出 `model/commodity/1`，这个类在 TensorFlow 2 中已不存在。训练任务负责拟合、检查，并以下一个编号发布；一个版本要么完整出现，要么不出现，服务器绝不会加载到半个版本。先用课程的梯度下降和学习率：


# %%
def fit(table: Path, *options: str) -> None:
    """Run the training job, and print its outcome."""
    command = [sys.executable, "-m", "training", "fit", f"--data={table}", "--label=y"]
    command += ["--model=neuron", f"--models={MODELS}", "--quiet", *options]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if job.returncode == 0:
        print("published:", Path(job.stdout.strip()).relative_to(FOLDER))
    elif job.returncode == 3:
        print("refused by the gate, exit status 3: nothing is published")
    else:
        raise RuntimeError(job.stderr)


fit(TABLE, "--optimizer=gradient-descent", "--learning-rate=0.0001", "--iterations=2000")
for path in sorted((MODELS / "neuron" / "1").rglob("*.*")):
    print("  ", path.relative_to(MODELS))

# %%
with TABLE.open() as file:
    cells = np.array(list(csv.reader(file))[1:], np.float32)
rows, labels = cells[:, :5], cells[:, 5]
column_names = ["x1", "x2", "x3", "x4", "x5"]

loaded = tf.saved_model.load(str(MODELS / "neuron" / "1"))
print("signatures:", *sorted(loaded.signatures))
local = loaded.signatures["dense"](features=tf.constant(rows[:3]))["probability"].numpy()
print("probability of y = 1:", local.round(3))

# %% [markdown] lang="en"
# ## 2. Start a model server
#
# ```sh
# docker run -p 8501:8501 -p 8500:8500 --mount type=bind,source=$PWD/models/neuron,target=/models/neuron -e MODEL_NAME=neuron -t tensorflow/serving
# ```
#
# | part | meaning | better |
# |---|---|---|
# | `-p 8500:8500` | gRPC, on every address of this machine | `-p 127.0.0.1:8500:8500`: nobody else can reach it |
# | `-p 8501:8501` | REST, likewise | leave it out if nobody uses it |
# | `--mount type=bind,source=…,target=/models/neuron` | the container sees the model's directory, not one version of it, so new versions are found | `,readonly` |
# | `-e MODEL_NAME=neuron` | becomes `--model_name=neuron --model_base_path=/models/neuron` | |
# | `-t` | a terminal, so that the log appears at once | `--rm --init`: removed when it ends, and ends on SIGTERM |
# | `tensorflow/serving` | the newest image today | `tensorflow/serving:2.20.0`: the same image tomorrow |

# %% [markdown] lang="zh"
# ## 2. 启动模型服务器
#
# ```sh
# docker run -p 8501:8501 -p 8500:8500 --mount type=bind,source=$PWD/models/neuron,target=/models/neuron -e MODEL_NAME=neuron -t tensorflow/serving
# ```
#
# | 部分 | 含义 | 更好的写法 |
# |---|---|---|
# | `-p 8500:8500` | gRPC 端口，对本机所有地址开放 | `-p 127.0.0.1:8500:8500`：别的机器连不上 |
# | `-p 8501:8501` | REST 端口，同上 | 没有人用就不写 |
# | `--mount type=bind,source=…,target=/models/neuron` | 容器看到的是模型的目录，而不是某一个版本，所以能发现新版本 | 加上 `,readonly` |
# | `-e MODEL_NAME=neuron` | 变成 `--model_name=neuron --model_base_path=/models/neuron` | |
# | `-t` | 分配终端，日志立即显示 | `--rm --init`：结束后自动删除，收到信号就结束 |
# | `tensorflow/serving` | 今天最新的镜像 | `tensorflow/serving:2.20.0`：明天还是同一个 |

# %%
IMAGE = "tensorflow/serving:2.20.0"
running: list[subprocess.Popen[bytes]] = []


def start(*command: str) -> subprocess.Popen[bytes]:
    """Start a process; its log goes into the temporary directory."""
    with (FOLDER / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    running.append(process)
    return process


@atexit.register
def stop_all() -> None:
    """Stop all running processes, even after a cell has failed."""
    for process in reversed(running):
        process.terminate()
        process.wait()
    running.clear()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, for five minutes at most."""
    deadline = time.monotonic() + 300
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError((FOLDER / "log").read_text()[-2000:])
        time.sleep(0.1)


def docker_has(image: str) -> bool:
    """Return whether a Docker engine is available and has an image."""
    command = ["docker", "image", "inspect", image]
    return shutil.which("docker") is not None and (
        subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


# %% tags=["varies"]
port = free_port()
address = f"127.0.0.1:{port}"
if docker_has(IMAGE):
    print("TensorFlow Serving answers, in a container.")
    mount = f"type=bind,source={MODELS / 'neuron'},target=/models/neuron,readonly"
    command = ["docker", "run", "--rm", "--init", f"-p={address}:8500", f"--mount={mount}"]
    server = start(*command, "-e=MODEL_NAME=neuron", IMAGE)
else:
    print(f"There is no Docker with {IMAGE} here: the embedded server answers.")
    command = [sys.executable, "-m", "serving", "--bind_address=127.0.0.1", f"--port={port}"]
    server = start(*command, "--model_name=neuron", f"--model_base_path={MODELS / 'neuron'}")

# %% [markdown] lang="en"
# ## 3. Call it with a stub
#
# `PredictRequest` names the model and the signature, and carries a tensor for each input. The response equals the exported graph's result in this process, and names the version that computed it.

# %% [markdown] lang="zh"
# ## 3. 用 stub 请求
#
# `PredictRequest` 写明模型名和签名，并为每个输入带上一个张量。得到的结果与在本进程里运行导出的计算图相同，同时写明是哪个版本给出的。


# %%
def predict_request(instances: np.ndarray) -> predict_pb2.PredictRequest:
    """Return the request for some rows, as the course builds it."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "neuron"
    request.model_spec.signature_name = "dense"
    request.inputs["features"].CopyFrom(tf.make_tensor_proto(instances, tf.float32))
    return request


with grpc.insecure_channel(address) as channel:
    grpc.channel_ready_future(channel).result(timeout=120)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(predict_request(rows[:3]), timeout=10)
served = tf.make_ndarray(response.outputs["probability"])
print("version", response.model_spec.version.value)
print("probability of y = 1:", served.round(3))
print("as in this process:", np.allclose(served, local, atol=1e-6))

# %% [markdown] lang="en"
# ### A channel per request, or one channel
#
# The course's server opens a channel for every request: a TCP connection, an HTTP/2 handshake, and the threads behind them, for a multiplication. A channel is made to be shared, by all threads of a process for as long as it lives. The next cell measures both; its output depends on the machine and is not kept here. On two cores of a server the median was 2.5 ms with a channel per request, and 0.6 ms with one channel.

# %% [markdown] lang="zh"
# ### 每个请求一个通道，还是共用一个通道
#
# 课程的 Web 服务器为每个请求新开一个通道：为了一次乘法，要建立 TCP 连接、完成 HTTP/2 握手，还要启动背后的线程。通道本来就是用来共享的，进程内所有线程都可以一直共用一个。下一个单元格测量两种做法；输出与机器有关，所以不保存在这里。在一台两核的服务器上，每个请求一个通道的中位数是 2.5 毫秒，共用通道是 0.6 毫秒。


# %% tags=["varies"]
def predict_over(channel: grpc.Channel) -> None:
    """Predict one row."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    stub.Predict(predict_request(rows[:1]), timeout=10)


def predict_over_new_channel() -> None:
    """Predict as the course's web server does."""
    with grpc.insecure_channel(address) as new_channel:
        predict_over(new_channel)


def measure_seconds(predict: Callable[[], None], repeats: int = 200) -> list[float]:
    """Return the duration of each call."""
    durations = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        predict()
        durations.append(time.perf_counter() - start_time)
    return durations


# In this order, because a second channel would share the connection of an open one.
per_request = measure_seconds(predict_over_new_channel)
channel = grpc.insecure_channel(address)
shared = measure_seconds(lambda: predict_over(channel))
print(f"a channel per request {1000 * statistics.median(per_request):>7.2f} ms")
print(f"one channel           {1000 * statistics.median(shared):>7.2f} ms")

# %%
print("the fastest call over one channel is faster:", min(shared) < min(per_request))

# %% [markdown] lang="en"
# ## 4. The Flask route
#
# `POST /api/v1/prediction/neuron`, as in the course, but with one shared channel. It works as long as nothing goes wrong.

# %% [markdown] lang="zh"
# ## 4. Flask 路由
#
# 与课程一样的 `POST /api/v1/prediction/neuron`，只是共用一个通道。只要一切正常，它就能用。

# %%
app = flask.Flask("course")
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)


@app.post("/api/v1/prediction/neuron")
def prediction() -> flask.Response:
    """Turn an HTTP request into a gRPC call."""
    instances = flask.request.get_json()["instances"]
    response = stub.Predict(predict_request(instances))
    return flask.jsonify(predictions=tf.make_ndarray(response.outputs["probability"]).tolist())


def ask_route(instances: Any) -> int:
    """Send rows to the course's route, and return the status."""
    body = {"instances": instances}
    return app.test_client().post("/api/v1/prediction/neuron", json=body).status_code


valid_rows = [[float(number) for number in rows[0]]]
BODIES = {
    "a good row": valid_rows,
    "text for a number": [["big", *valid_rows[0][1:]]],
    "a number too few": [valid_rows[0][:4]],
}
for name, instances in BODIES.items():
    print(f"{name:<18} {ask_route(instances)}")

# %% [markdown] lang="en"
# The caller's mistake gets a 500, as if the server were broken, without a word about what was wrong. There is also no deadline and no health check, and new versions go unnoticed.
#
# ## 5. The project's client
#
# The same server, with the project's client in front of it, as `make run` starts them.

# %% [markdown] lang="zh"
# 调用方的错误得到的却是 500，好像服务器坏了一样，也没有一个字说明错在哪里。此外，没有截止时间，没有健康检查，新版本上线也没有人知道。
#
# ## 5. 项目的客户端
#
# 服务器不变，前面换成项目的客户端，也就是 `make run` 启动的那个。

# %%
http_port = free_port()
url = f"http://127.0.0.1:{http_port}"
start(
    *(sys.executable, "-m", "client", "serve", "--model=neuron"),
    *(f"--port={http_port}", f"--server={address}"),
)


def ask(path: str, body: object = None) -> tuple[int, str, str]:
    """Return the status, text and Retry-After header of the client's response."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{url}{path}", data, timeout=60) as response:
            return response.status, response.read().decode(), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers.get("Retry-After", "")


def is_ready() -> bool:
    """Return whether the client reports that it is ready."""
    try:
        return ask("/readyz")[0] == 200
    except urllib.error.URLError:
        return False


wait_until(is_ready)
for name, instances in BODIES.items():
    status, text, _ = ask("/predict", {"instances": instances})
    document = json.loads(text)
    result = document.get("error") or f"probability {document['predictions'][0]['probability']:.3f}"
    print(f"{name:<18} {status}  {result}")

# %%
status, page, _ = ask("/")
print("the page:", status)
print("a field for each column:", all(f'"name":"{column}"' in page for column in column_names))

# %% [markdown] lang="en"
# ### Deadlines
#
# Without a deadline, a call waits forever if the other side does not respond. Here is a server that accepts connections and never answers: with a deadline, the caller gets an error after that time and can do something else. The client gives every call a deadline (`CLIENT_TIMEOUT`, or the request's `X-Request-Timeout`), and returns 504 after it.

# %% [markdown] lang="zh"
# ### 截止时间
#
# 没有截止时间时，如果对方一声不吭，调用就会永远等下去。下面是一个只接受连接、从不应答的服务器：有了截止时间，到时调用方就会收到错误，可以另作处理。客户端给每次调用都设了截止时间（`CLIENT_TIMEOUT`，或请求自带的 `X-Request-Timeout`），超时应答 504。

# %%
with socket.create_server(("127.0.0.1", 0)) as silent:
    silent_address = f"127.0.0.1:{silent.getsockname()[1]}"
    with grpc.insecure_channel(silent_address) as silent_channel:
        silent_stub = prediction_service_pb2_grpc.PredictionServiceStub(silent_channel)
        try:
            silent_stub.Predict(predict_request(rows[:1]), timeout=0.5)
        except grpc.RpcError as error:
            print(error.code())

# %% [markdown] lang="en"
# ### Batching
#
# A call costs more than a row. Requests that arrive while a call is in flight wait and share the next one. There is no timer, so a single request is as fast as before.

# %% [markdown] lang="zh"
# ### 批处理
#
# 一次调用的开销比一行数据大得多。一个调用进行期间到达的请求会一起等候，由下一个调用一并带走。没有定时器，所以单独一个请求还是和原来一样快。


# %%
def read_metric(name: str) -> float:
    """Return the sum of a client metric over its labels."""
    lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", ask("/metrics")[1], re.M)
    return sum(float(value) for value in lines)


REQUESTS = 400
before = read_metric("client_batch_requests_count")
with ThreadPoolExecutor(32) as pool:
    bodies = [{"instances": [row.tolist()]} for row in rows[:REQUESTS]]
    answers = list(pool.map(lambda body: ask("/predict", body), bodies))
calls = read_metric("client_batch_requests_count") - before
probabilities = [json.loads(text)["predictions"][0]["probability"] for _, text, _ in answers]
expected = loaded.signatures["dense"](features=tf.constant(rows[:REQUESTS]))["probability"]
print("all answered:", all(status == 200 for status, _, _ in answers))
print("each with the probability of its own row:", np.allclose(probabilities, expected, atol=1e-5))
print("fewer calls than requests:", calls < REQUESTS)

# %% [markdown] lang="en"
# ### Versions and the gate
#
# A better version uses the learning rate that the training job computes. While it is published and loaded, requests continue; none may fail. The new version is served as soon as it is loaded, and its log-loss is far lower.

# %% [markdown] lang="zh"
# ### 版本，以及把关
#
# 换一个更好的版本：使用训练任务自己算出的学习率。发布和加载期间请求照常进行，一个都不能失败。新版本一加载好就开始提供服务，它的对数损失低得多。


# %%
def log_loss() -> float:
    """Return the mean cross-entropy of the served version over the whole table."""
    response = stub.Predict(predict_request(rows), timeout=10)
    a = np.clip(tf.make_ndarray(response.outputs["probability"]), 1e-7, 1 - 1e-7)
    return float(-np.mean(labels * np.log(a) + (1 - labels) * np.log(1 - a)))


def served_version() -> int:
    """Request a prediction, and return the version that computed it."""
    status, text, _ = ask("/predict", {"instances": valid_rows})
    statuses.append(status)
    return int(json.loads(text)["version"])


statuses: list[int] = []
print(f"version {served_version()}: log-loss {log_loss():.3f}")
with ThreadPoolExecutor(1) as pool:
    publishing = pool.submit(fit, TABLE, "--optimizer=gradient-descent")
    wait_until(lambda: served_version() == 2)
publishing.result()
print(f"version {served_version()}: log-loss {log_loss():.3f}")
print("no request failed:", set(statuses) == {200})

# %% [markdown] lang="en"
# And the exercise's mistake, X scrambled by `reshape(-1, m)`? The training job has a gate: with `--floor accuracy=0.7`, a result that predicts no better than chance is refused, and version 2 keeps serving.

# %% [markdown] lang="zh"
# 那么练习里用 `reshape(-1, m)` 打乱 X 的错误呢？训练任务有一道关卡：加上 `--floor accuracy=0.7`，和瞎猜差不多的结果会被拒绝，服务的仍是版本 2。

# %%
scrambled = np.column_stack([rows.reshape(-1, len(rows)).T, labels])
header = ",".join([*column_names, "y"])
np.savetxt(FOLDER / "scrambled.csv", scrambled, "%.4f", ",", header=header, comments="")
fit(FOLDER / "scrambled.csv", "--floor=accuracy=0.7")
print("served: version", served_version())

# %% [markdown] lang="en"
# ### Health
#
# When the model server is gone, the client stays alive (`/livez`) and reports that it is not ready (`/readyz`): a load balancer then uses another client, and this one is not restarted for a fault that is not its own. A prediction gets a 503 at once, with the time after which to retry; the course's route returns 500.

# %% [markdown] lang="zh"
# ### 健康检查
#
# 模型服务器不在了，客户端仍然活着（`/livez`），但报告自己没有就绪（`/readyz`）：负载均衡器于是去找别的实例，也不会因为别人的故障而重启客户端。预测请求立即得到 503，并写明多久之后再试；课程的路由则应答 500。

# %%
server.terminate()
server.wait()
running.remove(server)
wait_until(lambda: not is_ready())
print("/livez  ", ask("/livez")[0])
print("/readyz ", ask("/readyz")[0])
status, _, retry_after = ask("/predict", {"instances": valid_rows})
print("/predict", status, "with Retry-After" if retry_after else "")
print("the course's route", ask_route(valid_rows))

# %%
stop_all()
channel.close()
shutil.rmtree(FOLDER)
print("still running:", len(running))

# %% [markdown] lang="en"
# ## 6. The same with one command
#
# ```sh
# .venv/bin/python -m training fit --data examples/course/neuron.csv --label y --model neuron
# make run MODEL=neuron
# ```
#
# `make run` starts the model server and the client (with `SERVER=docker`: TensorFlow Serving in a container), waits until they are ready, restarts processes that die, and prints the address of the page, <http://127.0.0.1:8080/>. There you can try other numbers; the page shows each column's contribution to the answer.
#
# | question | by hand, as in the course | with the project |
# |---|---|---|
# | The other side does not respond? | waits forever | 504 after the deadline |
# | The caller made a mistake? | 500 | 400: field, value, what was expected |
# | The model server is gone? | 500 | 503 with `Retry-After`; `/livez`, `/readyz` |
# | Many requests at once? | a call and a channel each | waiting requests share a call |
# | A new version? | copied into place, may be loaded incomplete | appears complete, after a gate; no request fails |
# | A bad version? | served | refused; `python -m training rollback` |
#
# [docs/course.md](../../docs/course.md) maps each step to the project's file for it.

# %% [markdown] lang="zh"
# ## 6. 一条命令做同样的事
#
# ```sh
# .venv/bin/python -m training fit --data examples/course/neuron.csv --label y --model neuron
# make run MODEL=neuron
# ```
#
# `make run` 启动模型服务器和客户端（加上 `SERVER=docker` 则用容器里的 TensorFlow Serving），等它们就绪，进程退出就重新启动，并打印页面地址 <http://127.0.0.1:8080/>。在页面上可以换别的数来问这个神经元，页面会显示每一列对结果的贡献。
#
# | 问题 | 课程的手工做法 | 本项目 |
# |---|---|---|
# | 对方一声不吭？ | 永远等待 | 到截止时间应答 504 |
# | 调用方写错了？ | 500 | 400：字段、值、应当是什么 |
# | 模型服务器不在了？ | 500 | 503 并带 `Retry-After`；`/livez`、`/readyz` |
# | 请求很多？ | 每个请求一次调用、一个通道 | 一起等候的请求共用一次调用 |
# | 有新版本？ | 直接复制过去，可能只加载到一半 | 通过关卡后完整出现，没有请求失败 |
# | 版本有问题？ | 照样提供 | 被拒绝；`python -m training rollback` |
#
# 每一步对应项目里的哪个文件，见 [docs/course.zh.md](../../docs/course.zh.md)。
