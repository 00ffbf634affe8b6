"""Frames over a pair of sockets: whole, in order, with their descriptors, and no others."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.engine.ipc.channel import (
    MAX_FRAME_BYTES,
    Channel,
    ChannelClosedError,
    ChannelError,
    header,
)
from sensorium.engine.ipc.outbox import Outbox


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    yield ours, channel
    ours.close()
    channel.close()


def all_frames(channel: Channel, count: int) -> list[bytes]:
    payloads: list[bytes] = []
    while len(payloads) < count:
        frames = channel.receive(wait=True)
        assert frames is not None
        payloads += [frame.payload for frame in frames]
    return payloads


@settings(deadline=None, max_examples=30)
@given(
    payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 12), min_size=1),
)
def test_frames_come_whole_however_the_bytes_are_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    data = b"".join(header(payload) + payload for payload in payloads)
    found: list[bytes] = []
    for i in range(len(data)):
        size = cuts[i % len(cuts)]
        if not data:
            break
        ours.sendall(data[:size])
        data = data[size:]
        found += [frame.payload for frame in channel.receive(wait=True) or ()]
    assert found == payloads
    assert channel.receive(wait=False) == []
    ours.close()
    assert channel.receive(wait=True) is None
    channel.close()


def test_large_frames_and_descriptors(pair: tuple[socket.socket, Channel]) -> None:
    ours, channel = pair
    sender = Channel(ours)
    sent = [os.memfd_create(f"number {i}") for i in range(3)]
    large = os.urandom(3_000_000)

    def send() -> None:
        for descriptor in sent:
            sender.send(b"small", [descriptor])
            sender.send(large)

    thread = threading.Thread(target=send)
    thread.start()
    frames = []
    while len(frames) < 6:
        frames += channel.receive(wait=True) or []
    thread.join()
    assert [frame.payload for frame in frames[1::2]] == [large] * 3
    for i, frame in enumerate(frames[::2]):
        (received,) = frame.descriptors
        assert f"number {i}" in os.readlink(f"/proc/self/fd/{received}")
        assert not os.get_inheritable(received)
        os.close(received)
        os.close(sent[i])


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IB", MAX_FRAME_BYTES + 1, 0),
        struct.pack("<IB", 3, 2) + b"abc",
        struct.pack("<IB", 3, 1) + b"abc",  # a descriptor that never came
        b"\xff" * 64,
    ],
)
def test_what_is_no_frame_is_refused(pair: tuple[socket.socket, Channel], data: bytes) -> None:
    ours, channel = pair
    ours.sendall(data)
    with pytest.raises(ChannelError):
        channel.receive(wait=True)


def test_more_descriptors_than_frames_are_refused_and_closed(
    pair: tuple[socket.socket, Channel],
) -> None:
    ours, channel = pair
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ours, [b"x"], [ours.fileno()] * 40)
    with pytest.raises(ChannelError, match="more descriptors"):
        channel.receive(wait=True)
    channel.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_sending_to_nobody(pair: tuple[socket.socket, Channel]) -> None:
    ours, channel = pair
    ours.close()
    with pytest.raises(ChannelClosedError):
        channel.send(b"x")


def test_an_outbox_never_waits_and_keeps_the_order(pair: tuple[socket.socket, Channel]) -> None:
    ours, channel = pair
    calls: list[int] = []
    outbox = Outbox(lambda: calls.append(1))
    descriptor = os.memfd_create("early")
    outbox.send(b"before there was anybody", descriptor)
    outbox.attach(ours)
    large = os.urandom(2_000_000)
    outbox.send(large)
    outbox.send(b"last")
    assert calls, "nobody was told that something is left"
    payloads: list[bytes] = []
    while len(payloads) < 3:
        outbox.flush()
        for frame in channel.receive(wait=False) or ():
            payloads.append(frame.payload)
            for received in frame.descriptors:
                os.close(received)
    assert payloads == [b"before there was anybody", large, b"last"]
    assert not outbox.flush()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_closed_outbox_closes_descriptors() -> None:
    outbox = Outbox(lambda: None)
    waiting, late = os.memfd_create("waiting"), os.memfd_create("late")
    outbox.send(b"x", waiting)
    outbox.close()
    outbox.send(b"y", late)
    for descriptor in (waiting, late):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
