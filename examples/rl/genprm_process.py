"""A judge plugin for verifiers and prime-rl. Its ids are names of modules without dots: put this file on PYTHONPATH.

[[env.taskset.task.judges]]
id = "genprm_process"
url = "http://127.0.0.1:8311"

A whole configuration is in `verifiers.toml` beside this file.
"""

from genprm.integrations.verifiers import ProcessJudge, ProcessJudgeConfig

__all__ = ["ProcessJudge", "ProcessJudgeConfig"]
