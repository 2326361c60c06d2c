"""The Vagrantfile: Vagrant itself reads it, and its own lines run against machines that only write down what they hear.

No provider of virtual machines is needed; whether a box boots is not tested here.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Ruby's half: `Vagrant.configure` and everything under it answer to any call and keep what matters.
STAGE = r"""
module Vagrant
  module Errors; class VagrantError < StandardError; end; end
  def self.configure(_) = yield(Recorder.new("config"))
end
class Recorder
  def initialize(name)
    @name = name
  end
  def method_missing(call, *arguments, **named, &block)
    return super if call == :to_ary
    if call == :define
      $nodes << arguments[0].to_s
      $node = arguments[0].to_s
    end
    $network[$node] = named[:ip] if call == :network
    $steps[$node] = named[:args] if call == :provision
    $joins[$node] = block if call == :ruby
    block.call(self, self) if block && call != :ruby
    self
  end
  def respond_to_missing?(name, *) = name != :to_ary
end
class Machine
  attr_reader :provider_name
  attr_writer :token
  def initialize(name, token)
    @name, @token = name, token
  end
  def communicate = self
  def ui = self
  def ready? = true
  def info(text) = puts("#{@name} info #{text}")
  def success(text) = puts("#{@name} success #{text}")
  def machine(name, _) = $first
  def sudo(command, error_check: true)
    puts "#{@name} runs #{command}"
    return 1 if command.include?("token show") && @token.nil?
    yield :stdout, command.include?("token show") ? "#{@token}\n" : "done\n"
    0
  end
end
def sleep(_)
  $first.token = "TOKEN"
end
$nodes, $network, $steps, $joins = [], {}, {}, {}
load ARGV[0]
$nodes.each { |name| puts "node #{name} #{$network[name]} #{$steps[name].join(" ")}" }
$first = Machine.new("node1", nil)
$nodes.each { |name| $joins[name].call($first, name == "node1" ? $first : Machine.new(name, nil)) }
"""


def vagrant(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    mine = {"HOME": str(tmp_path), "VAGRANT_HOME": str(tmp_path), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
    return subprocess.run(
        ["vagrant", *arguments], cwd=ROOT, env={**os.environ, **mine, **environment}, capture_output=True, text=True
    )


def test_vagrant_and_ruby_find_nothing_wrong(tmp_path: Path) -> None:
    assert subprocess.run(["ruby", "-c", "Vagrantfile"], cwd=ROOT, capture_output=True).returncode == 0
    done = vagrant(tmp_path, "validate", "--ignore-provider", NODES="4", BOX="some/box", NETWORK="192.168.60")
    assert done.returncode == 0, done.stderr
    assert "node4" in done.stdout
    assert "node5" not in done.stdout


def test_a_wrong_number_of_machines_or_network_is_refused_in_one_line(tmp_path: Path) -> None:
    many = vagrant(tmp_path, "validate", "--ignore-provider", NODES="99")
    assert many.returncode != 0
    assert "at least 1 and at most 50" in many.stderr
    network = vagrant(tmp_path, "validate", "--ignore-provider", NETWORK="10.0.0.0/8")
    assert network.returncode != 0
    assert "the first three numbers of a /24" in network.stderr


def test_the_first_machine_is_the_manager_and_the_others_join_it_with_its_token(tmp_path: Path) -> None:
    stage = tmp_path / "stage.rb"
    stage.write_text(STAGE)
    done = subprocess.run(["ruby", stage, ROOT / "Vagrantfile"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:3] == [
        "node node1 192.168.56.11 init 192.168.56.11",
        "node node2 192.168.56.12 wait",
        "node node3 192.168.56.13 wait",
    ]
    # Node 1 does not answer the first time; whoever joins asks it again.
    assert said.count("node1 runs miniorch token show --role worker --quiet") == 3
    for name in ("node2", "node3"):
        assert f"{name} runs miniorch join --token-file - 192.168.56.11 <<< 'TOKEN'" in said
    assert said[-1].startswith("node3 success next: vagrant ssh node1")
