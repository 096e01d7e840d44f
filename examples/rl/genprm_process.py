"""A judge plugin for verifiers and prime-rl. Its ids are names of modules without dots: put this file on PYTHONPATH.

[[taskset.task.judges]]
id = "genprm_process"
url = "http://127.0.0.1:8311"
"""

from genprm.integrations.verifiers import ProcessJudge, ProcessJudgeConfig

__all__ = ["ProcessJudge", "ProcessJudgeConfig"]
