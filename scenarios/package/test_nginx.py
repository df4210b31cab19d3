"""nginx runs, accepts its configuration and serves."""

from __future__ import annotations

from testinfra.host import Host

# bash is on every Debian and Red Hat; curl and wget are not.
ASK = (
    "exec 3<>/dev/tcp/127.0.0.1/80"
    " && printf 'GET / HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && head -n 1 <&3"
)


def test_service_runs(host: Host) -> None:
    service = host.service("nginx")
    assert service.is_running, "nginx.service is not active"
    assert service.is_enabled, "nginx would not come back after a reboot"


def test_configuration_is_valid(host: Host) -> None:
    """The new version must understand the old configuration."""
    tested = host.run("nginx -t")
    assert tested.rc == 0, tested.stderr.strip()


def test_port_80_answers_http(host: Host) -> None:
    answer = host.run("timeout 10 bash -c %s", ASK)
    assert answer.rc == 0, f"port 80 does not answer: {answer.stderr.strip()}"
    protocol, _, status = answer.stdout.strip().partition(" ")
    assert protocol.startswith("HTTP/"), f"port 80 does not speak HTTP: {answer.stdout!r}"
    assert int(status[:3]) < 500, f"nginx answers {status}"
